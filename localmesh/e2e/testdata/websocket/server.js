'use strict';
// A workload: echoes WebSockets of HTTP/1.1 (RFC 6455), or, started with "h2", of HTTP/2 (RFC 8441).
const ws = require('ws');

if (process.argv[2] === 'h2') {
  const server = require('http2').createServer({ settings: { enableConnectProtocol: true } });
  server.on('stream', (stream, headers) => {
    if (headers[':method'] !== 'CONNECT' || headers[':protocol'] !== 'websocket') {
      stream.respond({ ':status': 404 }, { endStream: true });
      return;
    }
    stream.respond({ ':status': 200 });
    stream.setNoDelay = () => {};
    const socket = new ws.WebSocket(null, undefined, {});
    socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 1 << 24, skipUTF8Validation: false });
    socket.on('message', (data, binary) => socket.send(data, { binary }));
    socket.on('error', () => {});
  });
  server.listen(process.env.PORT, process.env.HOST);
} else {
  const server = new ws.WebSocketServer({ host: process.env.HOST, port: process.env.PORT, maxPayload: 1 << 24 });
  server.on('connection', (socket) => {
    socket.on('message', (data, binary) => socket.send(data, { binary }));
    socket.on('error', () => {});
  });
}
