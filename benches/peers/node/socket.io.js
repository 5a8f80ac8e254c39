// A server of several, on npm's socket.io 4 with @socket.io/redis-adapter, for the table of the bus.
// README of the adapter: https://github.com/socketio/socket.io-redis-adapter
//
// - ADAPTER `redis`: README, "Usage", with the `ioredis` package, which takes less CPU here than with `redis`.
// - ADAPTER `sharded`: README, "With Redis sharded Pub/Sub", subscription mode `dynamic`, which is the default.
// - Only WebSocket, no compression (the default), bufferutil: https://socket.io/docs/v4/performance-tuning/
// - No heartbeats while it is measured: the client answers none, and they would cost CPU.
// - TCP_NODELAY: ws sets it.
//
// A client whose URL has `in` is a member of that room, and of as many more as `rooms` says: `in-0`, `in-1`, …
// A client whose URL has `to` sends `m` events to that room of all servers.

import { createServer } from 'node:http';
import { Server } from 'socket.io';
import { createAdapter, createShardedAdapter } from '@socket.io/redis-adapter';
import { createClient } from 'redis';
import { Redis } from 'ioredis';

if (process.argv.length !== 5) {
  console.error('usage: node socket.io.js redis|node-redis|sharded SOCKET ADDR');
  process.exit(2);
}
const [, , kind, path, listen] = process.argv;

const clients = kind === 'redis'
  ? [new Redis(path), new Redis(path)]
  : await Promise.all([0, 1].map(() => createClient({ socket: { path, tls: false } }).connect()));
const adapter = kind === 'sharded' ? createShardedAdapter(...clients) : createAdapter(...clients);

const http = createServer();
const io = new Server(http, {
  adapter,
  transports: ['websocket'],
  serveClient: false,
  pingInterval: 2 ** 30,
  maxHttpBufferSize: 64 * 1024 * 1024,
});
io.on('connection', (socket) => {
  const { in: room, rooms, to } = socket.handshake.query;
  if (rooms) {
    socket.join(Array.from({ length: Number(rooms) }, (_, number) => `${room}-${number}`));
  } else if (room) {
    socket.join(room);
  }
  if (to) socket.on('m', (text) => io.to(to).emit('m', text));
});

const [host, port] = listen.split(':');
http.listen(Number(port), host, () => {
  const { address, port } = http.address();
  console.log(`listening on ${address}:${port}`);
});
