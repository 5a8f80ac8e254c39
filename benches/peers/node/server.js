// Echo and broadcast on npm's ws 8. README: https://github.com/websockets/ws/blob/8.23.0/README.md
//
// - Routes: two servers without a listener of their own behind one HTTP server (README, "Multiple servers sharing a single HTTP/S server").
// - Broadcast: to every open client of the room, the sender too (README, "Server broadcast").
// - bufferutil is an optional dependency (README, "Legacy opt-in for performance"; Node.js 26.12 has its own and does not load it).
// - permessage-deflate is off: the default, and what the README advises ("WebSocket compression").
// - maxPayload: 100 MiB by default; the same limit as in the other servers. ws sets TCP_NODELAY itself.

import { createServer } from 'node:http';
import WebSocket, { WebSocketServer } from 'ws';

const options = { noServer: true, perMessageDeflate: false, maxPayload: 64 * 1024 * 1024 };

const echo = new WebSocketServer(options);
echo.on('connection', (client) => {
  client.on('error', () => {});
  client.on('message', (data, isBinary) => client.send(data, { binary: isBinary }));
});

const broadcast = new WebSocketServer(options);
broadcast.on('connection', (client) => {
  client.on('error', () => {});
  client.on('message', (data, isBinary) => {
    broadcast.clients.forEach((peer) => {
      if (peer.readyState === WebSocket.OPEN) peer.send(data, { binary: isBinary });
    });
  });
});

const server = createServer();
server.on('upgrade', (request, socket, head) => {
  const room = request.url === '/bcast' ? broadcast : echo;
  room.handleUpgrade(request, socket, head, (client) => room.emit('connection', client, request));
});

if (process.argv.length !== 3) {
  console.error('usage: node server.js ADDR');
  process.exit(2);
}
const [host, port] = process.argv[2].split(':');
server.listen(Number(port), host, () => {
  const { address, port } = server.address();
  console.log(`listening on ${address}:${port}`);
});
