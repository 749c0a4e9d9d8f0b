import { io } from './seed_io.mjs';

// Client connects
const socket = io('ws://localhost:3000/ai');

// Server responds with connection confirmation
socket.on('ai:connected', (data) => {
  console.log('Connected:', data.clientId);
  console.log('Max concurrent streams:', data.maxConcurrentStreams);
  console.log('Backpressure threshold:', data.backpressureThreshold);
});

socket.emit('ai:stream', {
  prompt: "Explain this code",
  model: "codellama",           // Optional
  temperature: 0.7,            // Optional
  maxTokens: 2048,            // Optional
  useOrchestrator: true,      // Optional, default: true
  agentContext: {             // Optional
    activeFile: "App.js",
    projectType: "React"
  },
  streamId: "custom_id"       // Optional, auto-generated if not provided
});

socket.on('ai:stream:start', (data) => {
  console.log('Stream started:', data.streamId);
});

socket.on('ai:token', (data) => {
  console.log('Token:', data.data);
  console.log('Agent:', data.agent);
  console.log('Token count:', data.tokenCount);
  console.log('Metadata:', data.metadata);
});

socket.on('ai:done', (data) => {
  console.log('Total tokens:', data.totalTokens);
  console.log('Duration:', data.duration, 'ms');
});

socket.on('disconnect', (reason) => {
  console.log('Disconnected:', reason);
  // Auto-reconnection handled by client
});

socket.on('connect', () => {
  // Reconnect with previous session
  socket.emit('ai:reconnect', { 
    previousClientId: "old_client_id" 
  });
});

socket.on('ai:reconnect:success', (data) => {
  console.log('Reconnection successful');
  console.log('Previous client:', data.previousClientId);
  console.log('New client:', data.newClientId);
});
