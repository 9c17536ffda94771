// Node's clients at the router, for test/t/124_clients.pl; Node 18's syntax.
//
//   node clients.mjs '{"url": ..., "prepare": true, "tenants": [...], "checks": 1000,
//                      "pairs": [[...], ...], "pair_url": ..., "alternations": 10000}'
//
// A client is what it offers here: inTenant(tenant, work) runs work(query) in a
// transaction that names the tenant first; query(text, values) returns rows;
// plain(text) asks outside of any transaction; code(error) is its SQLSTATE.
// Prints one line of JSON for each client: what each part below has seen.
import { eq, and, gte, sql as fragment } from 'drizzle-orm';
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres';
import { drizzle as drizzlePostgres } from 'drizzle-orm/postgres-js';
import { boolean, date, integer, jsonb, numeric, pgSchema, text } from 'drizzle-orm/pg-core';
import pg from 'pg';
import postgres from 'postgres';

const { url, prepare, tenants, checks, pairs, pair_url: pairUrl, alternations } = JSON.parse(process.argv[2]);
const connections = 4;
const enter = "SELECT set_config('kessel.tenant', $1, true)";

const schema = pgSchema('data');
const accounts = schema.table('accounts', {
  id: integer('id').notNull(),
  name: text('name').notNull(),
  balance: numeric('balance', { precision: 12, scale: 2 }).notNull(),
  active: boolean('active').notNull(),
  opened: date('opened', { mode: 'string' }).notNull(),
  extra: jsonb('extra'),
});
const contacts = schema.table('contacts', {
  id: integer('id').notNull(),
  account_id: integer('account_id').notNull(),
  email: text('email').notNull(),
});

// The same questions as SQL and as Drizzle's builder asks them.
const columns = 'id, name, balance, active, opened, extra';
const inSql = {
  read: (query, id) => query(`SELECT ${columns} FROM data.accounts WHERE id = $1 AND active = $2 AND balance >= $3 AND opened = $4`,
    [id, true, '9.99', '2026-01-01']),
  add: (query, row) => query(`INSERT INTO data.accounts (${columns}) VALUES ($1, $2, $3, $4, $5, $6) RETURNING ${columns}`,
    [row.id, row.name, row.balance, row.active, row.opened, row.extra]),
  change: (query, id, by) => query(`UPDATE data.accounts SET balance = balance + $2 WHERE id = $1 RETURNING ${columns}`, [id, by]),
  join: (query, id) => query('SELECT a.name, c.email FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id WHERE a.id = $1', [id]),
  remove: (query, id) => query('DELETE FROM data.accounts WHERE id = $1 RETURNING id', [id]),
  names: (query) => query('SELECT name FROM data.accounts WHERE id <= $1 ORDER BY id', [5]),
};
const { id, name, balance, active, opened, extra } = accounts;
const all = { id, name, balance, active, opened, extra };
const inDrizzle = {
  read: (tx, id) => tx.select(all).from(accounts)
    .where(and(eq(accounts.id, id), eq(accounts.active, true), gte(accounts.balance, '9.99'), eq(accounts.opened, '2026-01-01'))),
  add: (tx, row) => tx.insert(accounts).values(row).returning(all),
  change: (tx, id, by) => tx.update(accounts).set({ balance: fragment`${balance} + ${by}` }).where(eq(accounts.id, id)).returning(all),
  join: (tx, id) => tx.select({ name: accounts.name, email: contacts.email }).from(accounts)
    .innerJoin(contacts, eq(contacts.account_id, accounts.id)).where(eq(accounts.id, id)),
  remove: (tx, id) => tx.delete(accounts).where(eq(accounts.id, id)).returning({ id: accounts.id }),
  names: (tx) => tx.select({ name: accounts.name }).from(accounts)
    .where(fragment`${accounts.id} <= ${fragment.placeholder('most')}`).orderBy(accounts.id)
    .prepare(prepare ? 'names' : undefined).execute({ most: 5 }),
};

function postgresJs(url, connections) {
  const sql = postgres(url, { max: connections, prepare });
  const query = (on) => (text, values) => on.unsafe(text, values, { prepare });
  return {
    ask: inSql,
    inTenant: (tenant, work) => sql.begin(async (tx) => {
      await tx`SELECT set_config('kessel.tenant', ${tenant}, true)`;
      return work(query(tx));
    }),
    plain: () => sql`SELECT count(*) FROM data.accounts`,
    code: (error) => error.code,
    end: () => sql.end(),
  };
}

function nodePostgres(url, connections) {
  const pool = new pg.Pool({ connectionString: url, max: connections });
  const named = (text) => (prepare ? `q${[...text].reduce((h, c) => (h * 31 + c.charCodeAt(0)) | 0, 7)}` : undefined);
  const query = (on) => async (text, values) => (await on.query({ name: named(text), text, values })).rows;
  return {
    ask: inSql,
    inTenant: async (tenant, work) => {
      const client = await pool.connect();
      try {
        await client.query('BEGIN');
        await client.query(enter, [tenant]);
        const result = await work(query(client));
        await client.query('COMMIT');
        return result;
      } catch (error) {
        await client.query('ROLLBACK');
        throw error;
      } finally {
        client.release();
      }
    },
    plain: () => pool.query('SELECT count(*) FROM data.accounts'),
    code: (error) => error.code,
    end: () => pool.end(),
  };
}

function drizzle(db, end) {
  return {
    ask: inDrizzle,
    inTenant: (tenant, work) => db.transaction(async (tx) => {
      await tx.execute(fragment`SELECT set_config('kessel.tenant', ${tenant}, true)`);
      return work(tx);
    }),
    plain: () => db.select({ id: accounts.id }).from(accounts),
    code: (error) => error.cause && error.cause.code,
    end,
  };
}

function drizzleOverPostgresJs(url, connections) {
  const sql = postgres(url, { max: connections, prepare });
  return drizzle(drizzlePostgres(sql), () => sql.end());
}

function drizzleOverNodePostgres(url, connections) {
  const pool = new pg.Pool({ connectionString: url, max: connections });
  return drizzle(drizzlePg(pool), () => pool.end());
}

const day = (value) => (value instanceof Date ? value.toISOString().slice(0, 10) : value);
const shown = (rows) => rows.map((row) => ('opened' in row ? { ...row, opened: day(row.opened) } : { ...row }));

async function codeOf(client, work) {
  try {
    await work();
  } catch (error) {
    return client.code(error) || String(error.stack);
  }
  return 'no error';
}

// What is read and written for one tenant, and that an error undoes all of it.
async function oneTenant({ ask, inTenant, code }, tenant) {
  const row = { id: 71, name: `${tenant} é ''\\`, balance: '1234567.89', active: false, opened: '2024-02-29', extra: { tags: ['a', 'ü'], n: 1.5, none: null } };
  const seen = await inTenant(tenant, async (query) => ({
    read: shown(await ask.read(query, 1)),
    added: shown(await ask.add(query, row)),
    changed: shown(await ask.change(query, 71, '0.11')),
    joined: shown(await ask.join(query, 2)),
  }));
  seen.removed = shown(await inTenant(tenant, (query) => ask.remove(query, 71)));
  seen.twice = await codeOf({ code }, () => inTenant(tenant, async (query) => {
    await ask.add(query, { ...row, id: 72 });
    await ask.change(query, 1, '1000');
    await ask.add(query, { ...row, id: 72 });
  }));
  seen.afterError = await inTenant(tenant, async (query) => [shown(await ask.read(query, 1)), shown(await ask.remove(query, 72))]);
  return seen;
}

// One look: a transaction that names its tenant, and rows that say whose they are.
async function look({ ask, inTenant }, tenant, seen) {
  const names = await inTenant(tenant, (query) => ask.names(query));
  seen.checked += 1;
  seen.rows += names.length;
  if (names.length !== 5 || names.some(({ name }, i) => name !== `${tenant} account ${i + 1}`)) seen.mismatches += 1;
}

// Two at each connection take turns at the tenants.
async function inTurns(client) {
  const seen = { checked: 0, mismatches: 0, rows: 0 };
  let begun = 0;
  const turn = async () => {
    while (begun < checks) await look(client, tenants[begun++ % tenants.length], seen);
  };
  await Promise.all(Array.from({ length: 2 * connections }, turn));
  return seen;
}

// Two clients of one pool, which alternate between two tenants of one kind, and
// never want the same one: the connection that one gives back is the other's next.
async function inPairs(client) {
  const seen = { checked: 0, mismatches: 0, rows: 0 };
  for (const [i, pair] of pairs.entries()) {
    const each = Math.floor((alternations * (i + 1)) / pairs.length) - Math.floor((alternations * i) / pairs.length);
    const alternate = async (first) => {
      for (let n = first; n < each; n += 2) await look(client, pair[(n + ((n >> 1) & 1)) & 1], seen);
    };
    await Promise.all([alternate(0), alternate(1)]);
  }
  return seen;
}

const clients = {
  'postgres.js': postgresJs,
  'node-postgres': nodePostgres,
  'Drizzle over postgres.js': drizzleOverPostgresJs,
  'Drizzle over node-postgres': drizzleOverNodePostgres,
};
for (const [name, make] of Object.entries(clients)) {
  const client = make(url, connections);
  const report = { client: name, without: [], tenants: {} };
  report.without.push(await codeOf(client, client.plain));
  for (const tenant of tenants) report.tenants[tenant] = await oneTenant(client, tenant);
  report.turns = await inTurns(client);
  for (let i = 0; i < 2 * connections; i++) report.without.push(await codeOf(client, client.plain));
  await client.end();
  const pair = make(pairUrl, 2);
  report.pairs = await inPairs(pair);
  await pair.end();
  console.log(JSON.stringify(report));
}
