import { io } from './seed_io.mjs';

class AIStreamingClient {
  constructor(url = 'ws://localhost:3000/ai') {
    this.url = url;
    this.socket = null;
    this.isConnected = false;
    this.activeStreams = new Map();
    this.reconnectAttempts = 0;
    this.maxReconnectAttempts = 5;
  }

  connect() {
    this.socket = io(this.url);
    
    this.socket.on('connect', () => {
      this.isConnected = true;
      this.reconnectAttempts = 0;
      console.log('Connected to AI WebSocket');
    });

    this.socket.on('ai:connected', (data) => {
      console.log('AI WebSocket ready:', data);
    });

    this.socket.on('ai:token', (data) => {
      this.handleToken(data);
    });

    this.socket.on('ai:done', (data) => {
      this.handleStreamComplete(data);
    });

    this.socket.on('disconnect', () => {
      this.isConnected = false;
      this.scheduleReconnect();
    });
  }

  streamAI(prompt, options = {}) {
    const streamId = `client_${Date.now()}`;
    
    this.socket.emit('ai:stream', {
      prompt,
      streamId,
      ...options
    });
    
    return streamId;
  }

  handleToken(data) {
    // Process incoming token
    console.log('Token:', data.data);
  }

  handleStreamComplete(data) {
    console.log('Stream completed:', data.totalTokens, 'tokens');
  }

  scheduleReconnect() {
    if (this.reconnectAttempts < this.maxReconnectAttempts) {
      this.reconnectAttempts++;
      const delay = 1000 * Math.pow(2, this.reconnectAttempts - 1);
      
      setTimeout(() => {
        this.connect();
      }, delay);
    }
  }
}

export { AIStreamingClient };
