// The whole loop by the official clients: SDK v1, and the 2.x client as legacy, negotiating by itself, and pinned to 2026-07-28; and
// by the inspector's command line.
// usage: node mcp_clients_test.mjs TEST_NODE_FOLDER PYRO PROJECT
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { folder, npm } from '../../component/mcp/npm.mjs';

const [pyro, project] = process.argv.slice(3);
const v1 = { ...npm('@modelcontextprotocol/sdk/client/index.js'), ...npm('@modelcontextprotocol/sdk/client/stdio.js') };
const v2 = { ...npm('@modelcontextprotocol/client'), ...npm('@modelcontextprotocol/client/stdio') };
const info = { name: 'mcp_clients_test', version: '1.0.0' };
const environment = 'debian:12';
const patch = '--- a/src/a.txt\n+++ b/src/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n';

const kinds = { 'sdk v1': { make: () => new v1.Client(info), transport: v1.StdioClientTransport } };
for (const [name, mode] of [['legacy', 'legacy'], ['auto', 'auto'], ['pinned', { pin: '2026-07-28' }]])
    kinds[`client 2.x ${name}`] = { make: () => new v2.Client(info, { versionNegotiation: { mode } }), transport: v2.StdioClientTransport };

async function connected(t, kind, args = []) {
    const client = kind.make();
    client.errors = [];
    client.onerror = (error) => client.errors.push(error);
    t.after(() => client.close());
    await client.connect(new kind.transport({ command: pyro, args: ['mcp', 'serve', ...args], cwd: project, env: process.env }));
    const { tools } = await client.listTools();  // from here on the client checks structuredContent
    assert.equal(tools.length, 18);
    for (const tool of tools) assert.equal(Object.keys(tool.annotations).length, 4);
    return client;
}

const caller = (kind, client) => async (name, args = {}, options) => {
    const result = await (kind.transport === v1.StdioClientTransport ? client.callTool({ name, arguments: args }, undefined, options) : client.callTool({ name, arguments: args }, options));
    if (result.isError) throw Object.assign(new Error(result.content[0].text), { shape: JSON.parse(result.content[0].text) });
    assert.deepEqual(JSON.parse(result.content[0].text), result.structuredContent);
    return result.structuredContent;
};

test('clients', { concurrency: true }, async (t) => {
    await Promise.all(Object.entries(kinds).map(([name, kind], number) => t.test(name, async (t) => {
        const client = await connected(t, kind);
        const call = caller(kind, client);
        const { workspace_id, seed } = await call('workspace_create', { environment, name: `client-${number}`, mem_mib: 512 });
        assert.equal(seed.branch, 'main');
        assert.equal((await call('workspace_exec', { workspace_id, command: 'sh test.sh' })).exit_code, 1);
        await assert.rejects(call('workspace_exec', { workspace_id }), (error) => error.shape.code === 'invalid_argument' && /command/.test(error.shape.message));
        await call('workspace_file_write', { workspace_id, path: 'notes/n', text: 'note\n' });
        assert.equal((await call('workspace_file_read', { workspace_id, path: 'notes/n' })).content, 'note\n');
        assert.deepEqual((await call('workspace_file_list', { workspace_id, path: 'notes' })).entries.map((one) => one.path), ['notes/n']);
        await call('workspace_patch_apply', { workspace_id, patch });
        await assert.rejects(call('workspace_patch_apply', { workspace_id, patch }), (error) => /expected at line 1/.test(error.shape.details.rejections));
        assert.equal((await call('workspace_exec', { workspace_id, command: 'sh test.sh' })).exit_code, 0);
        const diff = await call('workspace_diff', { workspace_id });
        assert.deepEqual(diff.changes.map((one) => one.path), ['notes/n', 'src/a.txt']);
        assert.match(diff.patch, /^\+2$/m);
        const exported = await call('workspace_export', { workspace_id, path: 'src/a.txt', output_path: `a-${number}` });
        assert.equal(readFileSync(exported.output_path, 'utf8'), 'one\n2\nthree\n');
        await assert.rejects(call('workspace_export', { workspace_id, path: 'src/a.txt', output_path: `a-${number}` }), (error) => /overwrite/.test(error.shape.hint));
        await call('workspace_sync_push', { workspace_id, source_path: `a-${number}` }).then(() => assert.fail('no archive'), (error) => assert.ok(error.shape.hint));

        // Beyond what a call may take, with progress that keeps the client's own time-out away.
        const steps = [];
        const long = await call('workspace_exec', { workspace_id, command: 'echo first; sleep 48; echo second; exit 7', timeout_seconds: 0 },
            { onprogress: (one) => steps.push(one.progress), timeout: 15_000, resetTimeoutOnProgress: true });
        assert.deepEqual([long.state, long.stdout], ['running', 'first\n']);
        assert.ok(steps.length > 30, `${steps.length} steps`);
        const rest = await call('workspace_logs', { workspace_id, exec_id: long.exec_id, cursor: long.cursor, wait_seconds: 45 });
        assert.deepEqual([rest.state, rest.exit_code, rest.stdout], ['exited', 7, 'second\n']);

        // Taken back while it runs.
        const stop = new AbortController();
        let seen;
        const progress = new Promise((resolve) => { seen = resolve; });
        const cancelled = call('workspace_exec', { workspace_id, command: 'echo begun; sleep 1000', timeout_seconds: 0 }, { signal: stop.signal, onprogress: (one) => { if (one.message === 'exec') seen(); } });
        await progress;
        stop.abort('not needed any more');
        await assert.rejects(cancelled);
        assert.equal((await call('workspace_logs', { workspace_id, wait_seconds: 45 })).state, 'exited');
        assert.equal((await call('workspace_exec', { workspace_id, command: 'pgrep -x sleep' })).exit_code, 1);

        const resource = await client.readResource({ uri: `pyro://workspaces/client-${number}/files/notes/n` });
        assert.equal(resource.contents[0].text, 'note\n');
        assert.match((await client.getPrompt({ name: 'repro-fix-loop', arguments: { failure: 'sh test.sh' } })).messages[0].content.text, /sh test.sh/);
        assert.equal((await call('workspace_summary', { workspace_id })).changes_total, 2);
        await call('workspace_reset', { workspace_id });
        assert.equal((await call('workspace_diff', { workspace_id })).patch, '');
        assert.equal((await call('vm_run', { environment, command: 'exit 9' })).exit_code, 9);
        await call('workspace_delete', { workspace_id });
        await assert.rejects(call('workspace_status', { workspace_id }), (error) => error.shape.code === 'not_found');
        assert.deepEqual(client.errors, []);
    })));
});

test('inspector', async () => {
    const inspector = join(folder, 'node_modules/@modelcontextprotocol/inspector');
    const program = join(inspector, npm('@modelcontextprotocol/inspector/package.json').bin['mcp-inspector']);
    const inspect = async (...args) => {
        const { stdout } = await promisify(execFile)(process.execPath, [program, '--cli', '-e', `PYRO_SOCKET=${process.env.PYRO_SOCKET}`, pyro, 'mcp', 'serve', ...args], { cwd: project, env: process.env });
        return JSON.parse(stdout);
    };
    const call = async (tool, args) => (await inspect('--method', 'tools/call', '--tool-name', tool, ...Object.entries(args).flatMap(([name, value]) => ['--tool-arg', `${name}=${value}`]))).structuredContent;
    assert.equal((await inspect('--method', 'tools/list')).tools.length, 18);
    const { workspace_id } = await call('workspace_create', { environment });
    await call('workspace_file_write', { workspace_id, path: 'x', text: 'by hand' });
    assert.equal((await call('workspace_exec', { workspace_id, command: 'cat x; exit 3' })).exit_code, 3);
    assert.match((await call('workspace_diff', { workspace_id })).patch, /by hand/);
    await call('workspace_export', { workspace_id, path: 'x', output_path: 'by-hand' });
    await call('workspace_reset', { workspace_id });
    await call('workspace_delete', { workspace_id });
});
