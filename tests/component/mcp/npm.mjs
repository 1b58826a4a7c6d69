// The packages that scripts/test-node installed. usage: node TEST.mjs TEST_NODE_FOLDER ...
import { createRequire } from 'node:module';
import { join } from 'node:path';

export const folder = process.argv[2];
export const npm = createRequire(join(folder, 'package.json'));
