// Schedules, gets and cancels with the client that @hey-api/openapi-ts made: node use.js ADDRESS TOKEN.
import { strict as assert } from 'node:assert';
import { createClient } from './made/client';
import { cancelTask, getTask, scheduleTask } from './made/sdk.gen';
import type { TaskRequest } from './made/types.gen';

const [baseUrl, token] = process.argv.slice(2);
const client = createClient({ baseUrl, auth: () => token });

async function main(): Promise<void> {
  const body: TaskRequest = {
    delay: '1h',
    payload_json: { order: 17 },
    priority: 'high',
    labels: { from: 'typescript' },
  };
  const headers = { 'Idempotency-Key': 'from-typescript' };
  const stored = await scheduleTask({ client, body, headers });
  assert.ok(stored.data?.created, JSON.stringify(stored.error));
  assert.ok(stored.data.due_ms > 1_700_000_000_000);
  const id = stored.data.id;
  const again = await scheduleTask({ client, body, headers });
  assert.deepEqual([again.data?.id, again.data?.created], [id, false]);
  const found = await getTask({ client, path: { id } });
  assert.deepEqual(
    [found.data?.state, found.data?.priority, found.data?.payload, found.data?.due_ms],
    ['scheduled', 'high', '{"order":17}', stored.data.due_ms],
  );
  const cancelled = await cancelTask({ client, path: { id }, query: { free_key: true } });
  assert.equal(cancelled.response?.status, 204);
  const gone = await getTask({ client, path: { id } });
  assert.deepEqual([gone.error?.code, gone.error?.title], ['not_found', 'Not Found']);
  console.log('done');
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
