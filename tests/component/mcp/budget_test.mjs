// What a model pays for the tools before it has used one, in tokens of o200k_base. The golden files hold what clients are told.
// usage: node budget_test.mjs TEST_NODE_FOLDER GOLDEN_FOLDER
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { npm } from './npm.mjs';

const { encode } = npm('gpt-tokenizer/encoding/o200k_base');
const count = (value) => encode(JSON.stringify(value)).length;

test('workspace-core', () => {
    const { tools } = JSON.parse(readFileSync(join(process.argv[3], 'workspace-core.json')));
    let definitions = 0, results = 0;
    for (const { name, title, description, inputSchema, annotations, outputSchema } of tools) {
        definitions += count({ name, title, description, inputSchema, annotations });
        results += count(outputSchema);
    }
    console.log(`definitions ${definitions}, output schemas ${results}`);
    assert.equal(tools.length, 18);
    assert.ok(definitions > 1000 && definitions <= 5000, `${definitions} tokens`);
    assert.ok(results > 500 && results <= 3000, `${results} tokens of output schemas`);
});
