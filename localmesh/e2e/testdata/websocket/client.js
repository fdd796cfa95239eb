'use strict';
// node client.js http1|http2 HOST:PORT SOCKETS MESSAGES: opens that many WebSockets at once, sends
// messages of many sizes over each, several on their way, and wants every one back whole and in order.
const assert = require('assert');
const crypto = require('crypto');
const ws = require('ws');

const [version, address, sockets, messages] = process.argv.slice(2);
const sizes = [0, 1, 125, 126, 65535, 65536, 300000];
const underWay = 4;

function body(i, m) {
  return crypto.createHash('sha256').update(`${i}/${m}`).digest().toString('hex').repeat(1 + (sizes[m % sizes.length] >> 6)).slice(0, sizes[m % sizes.length]);
}

function talk(socket, i) {
  return new Promise((resolve, reject) => {
    let sent = 0;
    let got = 0;
    const next = () => {
      for (; sent < messages && sent - got < underWay; sent++) socket.send(body(i, sent), { binary: sent % 2 === 1 });
    };
    socket.on('message', (data, binary) => {
      try {
        assert.strictEqual(data.toString(), body(i, got), `socket ${i}, message ${got}`);
        assert.strictEqual(binary, got % 2 === 1);
      } catch (e) {
        reject(e);
        return;
      }
      if (++got == messages) socket.close(1000, 'done');
      next();
    });
    // Over a stream of HTTP/2 ws may miss the close frame that came with the end of the stream (1006), without a proxy too.
    const ordered = (code) => code === 1000 || (version === 'http2' && code === 1006);
    socket.on('close', (code) => (ordered(code) && got == messages ? resolve() : reject(new Error(`socket ${i}: closed with ${code} after ${got}`))));
    socket.on('error', reject);
    next();
  });
}

function openHTTP1(i) {
  return new Promise((resolve, reject) => {
    const socket = new ws.WebSocket(`ws://${address}/socket/${i}`);
    socket.once('open', () => resolve(socket));
    socket.once('error', reject);
  });
}

function openHTTP2(session, i) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':path': `/socket/${i}`, 'sec-websocket-version': '13' });
    stream.once('error', reject);
    stream.once('response', (headers) => {
      if (headers[':status'] !== 200) {
        reject(new Error(`status ${headers[':status']} ${headers['isthmus-reason'] || ''}`));
        return;
      }
      stream.setNoDelay = () => {};
      const socket = new ws.WebSocket(null, undefined, {});
      socket._isServer = false;
      socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 1 << 24, skipUTF8Validation: false });
      resolve(socket);
    });
  });
}

async function main() {
  let session;
  if (version === 'http2') {
    session = require('http2').connect(`http://${address}`);
    await new Promise((resolve, reject) => {
      session.once('remoteSettings', resolve);
      session.once('error', reject);
    });
  }
  await Promise.all(Array.from({ length: Number(sockets) }, async (_, i) => {
    await talk(await (session ? openHTTP2(session, i) : openHTTP1(i)), i);
  }));
  if (session) session.close();
  console.log(`${sockets} sockets, ${messages} messages each`);
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
