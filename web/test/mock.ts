// Serves dist and the server in memory, to look at the client without the real
// one: npm run build && npm run mock, then http://127.0.0.1:8080.
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, resolve } from 'node:path';
import { WebSocketServer } from 'ws';
import { FakeServer } from './fakeserver';
import { evening, paint } from './scene';

const port = Number(process.env.PORT ?? 8080);
const dist = resolve('dist');
const types: Record<string, string> = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.webmanifest': 'application/manifest+json' };
// SCENE=ko or SCENE=en fills it with an evening worth a screenshot.
const scene = process.env.SCENE;
const server = new FakeServer(() => (scene ? evening : Date.now()));
if (scene) paint(server, scene === 'en' ? 'en' : 'ko');
else server.addAccount('echo', '메아리', '', true);

const http = createServer((request, response) => {
  const path = new URL(request.url ?? '/', 'http://localhost').pathname;
  response.setHeader('content-security-policy', "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'");
  const method = /^\/bongsu\.edge\.v1\.AccountService\/(\w+)$/.exec(path)?.[1];
  if (method) {
    let body = '';
    request.on('data', (chunk) => (body += chunk));
    request.on('end', () => {
      const answer = server.http(method, JSON.parse(body) as Record<string, string>);
      response.writeHead(answer.status, { 'content-type': 'application/json' }).end(JSON.stringify(answer.body));
    });
    return;
  }
  const file = join(dist, path === '/' ? 'index.html' : path);
  if (!file.startsWith(dist) || !existsSync(file)) return void response.writeHead(path === '/healthz' || path === '/readyz' ? 200 : 404).end();
  response.writeHead(200, { 'content-type': types[extname(file)] ?? 'application/octet-stream' }).end(readFileSync(file));
});

new WebSocketServer({ server: http, path: '/v1/socket', handleProtocols: () => 'bongsu.v1' }).on('connection', (socket) => {
  const session = server.connect({ send: (bytes) => socket.send(bytes), close: () => socket.terminate() });
  socket.on('message', (data) => session.receive(new Uint8Array(data as Buffer)));
  socket.on('close', () => server.sessions.delete(session));
});

http.listen(port, '127.0.0.1', () => {
  const address = http.address();
  console.log(`mock on http://127.0.0.1:${typeof address === 'object' ? address?.port : port}`);
});
