import { io } from './seed_io.mjs';

// Test basic connection
const client = io('ws://localhost:3000/ai');
client.on('ai:connected', () => {
  console.log('âœ… Connection successful');
});

// Test streaming
client.emit('ai:stream', {
  prompt: 'Write a hello world function',
  useOrchestrator: false
});

client.on('ai:token', (data) => {
  console.log('âœ… Token received:', data.data);
});

client.on('ai:done', (data) => {
  console.log('âœ… Stream completed:', data.totalTokens, 'tokens');
});
