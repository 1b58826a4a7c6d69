// The protocol's own conformance suite against the fixture. The suite speaks HTTP only: the SDK's HTTP server transport, which
// carries messages and knows nothing of them, is put before one fixture per session.
// usage: node conformance_test.mjs TEST_NODE_FOLDER FIXTURE_SERVER
import { execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { folder, npm } from './npm.mjs';

const { StreamableHTTPServerTransport } = npm('@modelcontextprotocol/sdk/server/streamableHttp.js');
const fixture = process.argv[3];
// These are about HTTP: event streams that end early, and the Host header.
const not_stdio = new Set(['server-sse-polling', 'server-sse-multiple-streams', 'dns-rebinding-protection']);

const sessions = new Map();

async function new_session() {
    const child = spawn(fixture, { stdio: ['pipe', 'pipe', 'inherit'] });
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, onsessioninitialized: (id) => sessions.set(id, transport) });
    let latest;  // requests and notifications of the server go on the stream of the request that is under way
    transport.onmessage = (message) => {
        if (message.id !== undefined && message.method) latest = message.id;
        child.stdin.write(JSON.stringify(message) + '\n');
    };
    createInterface({ input: child.stdout }).on('line', (line) => {
        const message = JSON.parse(line);
        const relatedRequestId = message.method ? latest : message.id;
        transport.send(message, { relatedRequestId }).catch((error) => console.error(`bridge: ${error.message}`));
    });
    transport.onclose = () => child.stdin.end();
    transport.child = child;
    await transport.start();
    return transport;
}

const server = createServer(async (request, response) => {
    const transport = sessions.get(request.headers['mcp-session-id']) ?? await new_session();
    await transport.handleRequest(request, response);
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${server.address().port}/mcp`;

const program = join(folder, 'node_modules/@modelcontextprotocol/conformance/dist/index.js');
const run = (...args) => new Promise((resolve) => execFile(process.execPath, [program, ...args], { cwd: folder }, (error, stdout, stderr) => resolve({ code: error?.code ?? 0, output: stdout + stderr })));

const { output: listed } = await run('list', '--server');
const scenarios = [...listed.split('Client scenarios')[0].matchAll(/^ {2}- (\S+)/gm)].map((match) => match[1]).filter((name) => !not_stdio.has(name));
let failed = 0;
for (const scenario of scenarios) {
    const { code, output } = await run('server', '--url', url, '--scenario', scenario);
    const passed = code === 0 && /Passed: (\d+)\/\1, 0 failed, 0 warnings/.test(output);
    console.log(`${passed ? 'pass' : 'FAIL'} ${scenario}`);
    if (!passed) {
        console.log(output);
        failed += 1;
    }
}
console.log(`${scenarios.length - failed} of ${scenarios.length} scenarios passed`);
for (const transport of sessions.values()) transport.child.kill();
server.closeAllConnections();
server.close();
// A list that came out short would be a test of nothing.
process.exitCode = failed > 0 || scenarios.length < 29 ? 1 : 0;
