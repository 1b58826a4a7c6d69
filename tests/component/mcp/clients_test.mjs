// The official clients against the fixture: SDK v1, and the 2.x client as legacy, negotiating by itself, and pinned to 2026-07-28.
// And the inspector's command line, which agents' authors debug servers with.
// usage: node clients_test.mjs TEST_NODE_FOLDER FIXTURE_SERVER
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { folder, npm } from './npm.mjs';

const fixture = process.argv[3];
const v1 = { ...npm('@modelcontextprotocol/sdk/client/index.js'), ...npm('@modelcontextprotocol/sdk/client/stdio.js'), types: npm('@modelcontextprotocol/sdk/types.js') };
const v2 = { ...npm('@modelcontextprotocol/client'), ...npm('@modelcontextprotocol/client/stdio') };
const capabilities = { elicitation: {}, sampling: {} };
const info = { name: 'clients_test', version: '1.0.0' };

const kinds = {
    'sdk v1': { version: '2025-11-25', make: () => new v1.Client(info, { capabilities }), transport: v1.StdioClientTransport, by: (name) => v1.types[{
        'elicitation/create': 'ElicitRequestSchema', 'sampling/createMessage': 'CreateMessageRequestSchema', 'notifications/message': 'LoggingMessageNotificationSchema',
        'notifications/resources/updated': 'ResourceUpdatedNotificationSchema', 'notifications/resources/list_changed': 'ResourceListChangedNotificationSchema' }[name]] },
};
for (const [name, mode, version] of [['legacy', 'legacy', '2025-11-25'], ['auto', 'auto', '2026-07-28'], ['pinned', { pin: '2026-07-28' }, '2026-07-28']])
    kinds[`client 2.x ${name}`] = { version, make: () => new v2.Client(info, { capabilities, versionNegotiation: { mode } }), transport: v2.StdioClientTransport, by: (method) => method };

async function connected(t, kind, args = []) {
    const client = kind.make();
    client.errors = [];
    client.onerror = (error) => client.errors.push(error);
    const transport = new kind.transport({ command: fixture, args });
    t.after(() => client.close());
    client.setRequestHandler(kind.by('elicitation/create'), async (request) => {
        client.asked = request.params;
        return { action: 'accept', content: { username: 'ada', email: 'ada@example.org', word: request.params.message.split(' ')[1] } };
    });
    client.setRequestHandler(kind.by('sampling/createMessage'), async () => ({ role: 'assistant', model: 'none', content: { type: 'text', text: 'sampled' } }));
    await client.connect(transport);
    return client;
}

const text = (result) => result.content[0].text;

for (const [name, kind] of Object.entries(kinds)) {
    const modern = kind.version === '2026-07-28';
    const call = (client, tool, args = {}, options) => kind.transport === v1.StdioClientTransport
        ? client.callTool({ name: tool, arguments: args }, undefined, options) : client.callTool({ name: tool, arguments: args }, options);

    test(`${name}: who and what`, async (t) => {
        const client = await connected(t, kind);
        assert.equal(client.getServerVersion().name, 'fixture');
        assert.equal(client.getServerVersion().description, 'A server for tests');
        assert.equal(client.getInstructions(), 'For tests only.');
        assert.deepEqual(client.getServerCapabilities(), { tools: {}, resources: { subscribe: true, listChanged: true }, prompts: {}, completions: {}, logging: {} });
        if (client.getNegotiatedProtocolVersion) assert.equal(client.getNegotiatedProtocolVersion(), kind.version);
        const { tools } = await client.listTools();
        const add = tools.find((one) => one.name === 'test_structured');
        assert.equal(add.title, 'Add');
        assert.deepEqual(add.annotations, { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false });
        assert.equal(add.outputSchema.properties.sum.type, 'integer');
        assert.deepEqual(add._meta, { 'org.example/kind': 'arithmetic' });
        assert.deepEqual(client.errors, []);
    });

    test(`${name}: results of tools`, async (t) => {
        const client = await connected(t, kind);
        await client.listTools();  // from here on the client checks structuredContent
        assert.equal(text(await call(client, 'test_simple_text')), 'This is a simple text response for testing.');
        const sum = await call(client, 'test_structured', { a: 2, b: 3 });
        assert.deepEqual([sum.structuredContent, text(sum)], [{ sum: 5 }, '{"sum":5}']);
        const refused = await call(client, 'test_structured', { a: 2, b: 'three' });
        assert.equal(refused.isError, true);
        assert.match(text(refused), /b: must be of type integer/);
        const failed = JSON.parse(text(await call(client, 'test_error_handling')));
        assert.deepEqual([failed.code, failed.hint], ['failed_precondition', 'expect it']);
        await assert.rejects(call(client, 'test_no_such_tool'), (error) => error.code === -32602);
        const types = (await call(client, 'test_multiple_content_types')).content.map((block) => block.type);
        assert.deepEqual(types, ['text', 'image', 'resource']);
        assert.equal((await call(client, 'test_resource_link')).content[0].type, 'resource_link');
        assert.equal((await call(client, 'test_audio_content')).content[0].mimeType, 'audio/wav');
        assert.match(text(await call(client, 'test_not_utf8')), /^good \ufffd bad$/);
        assert.equal(text(await call(client, 'test_bytes', { count: 9_000_000 })).length, 9_000_000);
        assert.equal(text(await call(client, 'test_print')), 'printed');
        assert.deepEqual(client.errors, []);
    });

    test(`${name}: progress`, async (t) => {
        const client = await connected(t, kind);
        let seen;
        const progress = new Promise((resolve) => { seen = resolve; });
        const waiting = call(client, 'test_wait', { gate: 'progress' }, { onprogress: seen });
        assert.deepEqual(await progress, { progress: 1, total: 2, message: 'waiting' });  // while the call is under way
        await call(client, 'test_open', { gate: 'progress' });
        assert.equal(text(await waiting), 'waited for progress');
        assert.equal(text(await call(client, 'test_tool_with_progress')), 'progress: nobody asked');
    });

    test(`${name}: cancellation, and calls at once`, async (t) => {
        const client = await connected(t, kind);
        const stop = new AbortController();
        const cancelled = call(client, 'test_wait', { gate: 'never' }, { signal: stop.signal });
        const waiting = call(client, 'test_wait', { gate: 'later' });
        await call(client, 'test_await_waiting', { gate: 'never', count: 1 });
        stop.abort('not needed any more');
        await assert.rejects(cancelled);
        await call(client, 'test_await_stopped', { count: 1 });
        await call(client, 'test_open', { gate: 'later' });
        assert.equal(text(await waiting), 'waited for later');
        assert.deepEqual(client.errors, []);
    });

    test(`${name}: resources`, async (t) => {
        const client = await connected(t, kind, ['2']);
        const uris = [];
        let page;
        do {
            page = await client.listResources(page ? { cursor: page.nextCursor } : {});
            uris.push(...page.resources.map((one) => one.uri));
        } while (page.nextCursor);
        // The 2.x client collects the pages itself.
        assert.deepEqual(uris, ['test://static-text', 'test://static-binary', 'test://watched-resource', 'test://template/listed/data']);
        assert.equal((await client.listResourceTemplates()).resourceTemplates[0].uriTemplate, 'test://template/{id}/data');
        assert.match((await client.readResource({ uri: 'test://static-text' })).contents[0].text, /static text resource/);
        assert.equal(Buffer.from((await client.readResource({ uri: 'test://static-binary' })).contents[0].blob, 'base64').subarray(1, 4).toString(), 'PNG');
        assert.equal(JSON.parse((await client.readResource({ uri: 'test://template/a%20b/data' })).contents[0].text).id, 'a b');
        for (const uri of ['test://template/missing/data', 'test://nothing'])
            await assert.rejects(client.readResource({ uri }), (error) => error.code === (modern ? -32602 : -32002) && error.data.details.uri === uri);
    });

    test(`${name}: what changes`, async (t) => {
        const client = await connected(t, kind);
        const told = [];
        let enough;
        const both = new Promise((resolve) => { enough = resolve; });
        const note = (what) => { told.push(what); if (told.length === 2) enough(); };
        client.setNotificationHandler(kind.by('notifications/resources/updated'), (message) => note(message.params.uri));
        client.setNotificationHandler(kind.by('notifications/resources/list_changed'), () => note('the list'));
        const uri = 'test://watched-resource';
        let subscription;
        if (modern) {
            subscription = await client.listen({ resourcesListChanged: true, toolsListChanged: true, resourceSubscriptions: [uri] });
            assert.deepEqual(subscription.honoredFilter, { resourcesListChanged: true, resourceSubscriptions: [uri] });
        } else {
            await client.subscribeResource({ uri });
        }
        await call(client, 'test_touch', { uri });
        await both;
        assert.deepEqual(told, [uri, 'the list']);
        if (modern) await subscription.close();
        else await client.unsubscribeResource({ uri });
        await call(client, 'test_touch', { uri });
        await call(client, 'test_simple_text');
        assert.equal(told.filter((what) => what === uri).length, 1);
        assert.deepEqual(client.errors, []);
    });

    test(`${name}: prompts and completion`, async (t) => {
        const client = await connected(t, kind);
        assert.deepEqual((await client.listPrompts()).prompts[1].arguments.map((one) => [one.name, one.required]), [['arg1', true], ['arg2', true]]);
        const prompt = await client.getPrompt({ name: 'test_prompt_with_arguments', arguments: { arg1: 'hello', arg2: 'world' } });
        assert.equal(prompt.messages[0].content.text, "Prompt with arguments: arg1='hello', arg2='world'");
        await assert.rejects(client.getPrompt({ name: 'test_prompt_with_arguments', arguments: { arg1: 'hello' } }), (error) => error.code === -32602);
        assert.equal((await client.getPrompt({ name: 'test_prompt_with_image' })).messages[0].content.type, 'image');
        const ref = { type: 'ref/prompt', name: 'test_prompt_with_arguments' };
        assert.deepEqual((await client.complete({ ref, argument: { name: 'arg1', value: 'par' } })).completion.values, ['paris', 'park', 'party']);
        assert.deepEqual((await client.complete({ ref, argument: { name: 'arg1', value: 'pari' }, context: { arguments: { arg2: 'x' } } })).completion.values, ['paris x']);
        const many = (await client.complete({ ref: { type: 'ref/resource', uri: 'test://template/{id}/data' }, argument: { name: 'id', value: '' } })).completion;
        assert.deepEqual([many.values.length, many.total, many.hasMore], [100, 150, true]);
    });

    test(`${name}: questions to the client`, async (t) => {
        const client = await connected(t, kind);
        assert.match(text(await call(client, 'test_elicitation', { message: 'Who are you?' })), /action=accept, content=.*"ada"/);
        assert.equal(client.asked.message, 'Who are you?');
        assert.equal(text(await call(client, 'test_two_questions')), 'first second');
        assert.equal(text(await call(client, 'test_sampling', { prompt: 'say it' })), 'LLM response: sampled');
        assert.equal(text(await call(client, 'test_ask_if_possible')), 'could ask');
    });

    if (!modern) test(`${name}: ping and log levels`, async (t) => {
        const client = await connected(t, kind);
        const lines = [];
        client.setNotificationHandler(kind.by('notifications/message'), (message) => lines.push([message.params.level, message.params.data]));
        await client.ping();
        await client.setLoggingLevel('debug');
        await call(client, 'test_tool_with_logging');
        await client.ping();
        assert.deepEqual(lines.map(([level]) => level), ['info', 'info', 'info', 'debug']);
        await client.setLoggingLevel('error');
        await call(client, 'test_tool_with_logging');
        await client.ping();
        assert.equal(lines.length, 4);
    });
}

async function inspect(...args) {
    const inspector = join(folder, 'node_modules/@modelcontextprotocol/inspector');
    const program = join(inspector, npm('@modelcontextprotocol/inspector/package.json').bin['mcp-inspector']);
    const { stdout } = await promisify(execFile)(process.execPath, [program, '--cli', fixture, ...args], { env: { ...process.env, HOME: folder } });
    return JSON.parse(stdout);
}

test('inspector: tools and resources', async () => {
    assert.equal((await inspect('--method', 'tools/list')).tools[0].name, 'test_simple_text');
    assert.deepEqual((await inspect('--method', 'tools/call', '--tool-name', 'test_structured', '--tool-arg', 'a=20', '--tool-arg', 'b=22')).structuredContent, { sum: 42 });
    assert.match((await inspect('--method', 'resources/read', '--uri', 'test://static-text')).contents[0].text, /static text resource/);
});
