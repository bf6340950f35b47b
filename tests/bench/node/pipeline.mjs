// The normalizer and the storage writer in JavaScript: what the pipeline is measured against.
//
// In: the stage (`normalizer` or `storage`) and the schema's file; REDIS_URL and DATABASE_URL. Out:
// the normalizer turns `ttlc:raw` into `ttlc:events` as group `normalizer`, the storage writer turns
// that into rows as group `storage`. Each is a process. Both work in batches, and read the next one
// while the last one is written. Redis is asked in pipelines; publishing and acknowledging are one
// MULTI. Postgres is given a batch in one INSERT from arrays, and the three statistics tables
// one upsert each from the rows really inserted, in one transaction; acknowledged is after COMMIT.
// What the real stages also do is left out, in favour of this one: no event is checked against the
// contract, nothing is remembered of streaks, of rooms and users nothing is written. Any error ends
// it.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Redis } from 'ioredis';
import pg from 'pg';
import protobuf from 'protobufjs';

const RAW = 'ttlc:raw';
const EVENTS = 'ttlc:events';
const BATCH = 500;

const [stage, schema] = process.argv.slice(2);
const reading = new Redis(process.env.REDIS_URL);
const writing = new Redis(process.env.REDIS_URL);

async function group(stream, name) {
  try {
    await writing.xgroup('CREATE', stream, name, '0', 'MKSTREAM');
  } catch (error) {
    if (!String(error).includes('BUSYGROUP')) throw error;
  }
}

// Entries of a stream as [id, fields], at most a batch; waits for some.
async function read(stream, name) {
  for (;;) {
    const reply = await reading.xreadgroup(
      'GROUP', name, 'node', 'COUNT', BATCH, 'BLOCK', 1000, 'STREAMS', stream, '>');
    if (reply) return reply[0][1];
  }
}

function field(fields, name) {
  for (let place = 0; place < fields.length; place += 2) {
    if (fields[place] === name) return fields[place + 1];
  }
  return undefined;
}

// Writes batch after batch, and reads the next one meanwhile.
async function work(stream, name, write) {
  await group(stream, name);
  let next = read(stream, name);
  for (;;) {
    const entries = await next;
    next = read(stream, name);
    await write(entries);
  }
}

// ---- normalizer

const TYPES = {
  WebcastChatMessage: 'CHAT', WebcastGiftMessage: 'GIFT', WebcastLikeMessage: 'LIKE',
  WebcastMemberMessage: 'JOIN', WebcastSubNotifyMessage: 'SUBSCRIBE',
  WebcastEmoteChatMessage: 'EMOTE', WebcastLinkMicBattle: 'BATTLE', WebcastLinkMicArmies: 'BATTLE',
  WebcastBarrageMessage: 'BATTLE', WebcastRoomUserSeqMessage: 'ROOM_USER',
  WebcastSocialMessage: 'FOLLOW', 'ControlEvent.CONNECTED': 'CONNECTED',
};

function decoder() {
  const { root } = protobuf.parse(readFileSync(schema, 'utf8'), { keepCase: false });
  const asJson = { longs: String, enums: String, bytes: String };
  return (method, data) => {
    if (data.startsWith('{')) return JSON.parse(data);
    const type = root.nested.webcast.nested[method.replace(/^Webcast/, '')];
    if (!(type instanceof protobuf.Type)) return { raw: data };
    try {
      return type.toObject(type.decode(Buffer.from(data, 'base64')), asJson);
    } catch {
      // Some captured messages do not fit; the real normalizer repairs these.
      return { raw: data };
    }
  };
}

function normalizer() {
  const decode = decoder();
  return async (entries) => {
    const batch = writing.multi();
    const ids = [];
    for (const [id, fields] of entries) {
      const streamId = field(fields, 'streamId');
      const seqNo = Number(field(fields, 'seqNo'));
      const rawType = field(fields, 'type');
      const data = field(fields, 'data');
      const { user, ...payload } = decode(rawType, data);
      const event = {
        schemaVersion: 'unified-event.v1',
        eventId: createHash('sha256').update(`${streamId}:${seqNo}:${rawType}`).digest('hex'),
        eventType: TYPES[rawType] ?? 'RAW',
        source: field(fields, 'source'),
        streamId,
        sessionId: field(fields, 'sessionId'),
        seqNo,
        timestamp: field(fields, 'timestamp'),
        ingestedAt: field(fields, 'ingestedAt'),
        payload: { rawType, ...payload },
      };
      if (user) {
        event.user = {
          userId: user.id ?? '', username: user.uniqueId ?? user.displayId ?? '',
          displayName: user.nickname ?? '',
        };
      }
      batch.xadd(EVENTS, '*', 'event', JSON.stringify(event), 'normalizedAt',
        new Date().toISOString(), 'raw', data);
      ids.push(id);
    }
    batch.xack(RAW, 'normalizer', ...ids);
    for (const [error] of await batch.exec()) if (error) throw error;
  };
}

// ---- storage

const INSERT = `INSERT INTO events (event_id, part_day, stream_id, session_id, seq_no, event_type,
    source, occurred_at, ingested_at, user_id, event, raw, raw_format, raw_hash)
  SELECT * FROM unnest($1::bytea[], $2::date[], $3::text[], $4::uuid[], $5::bigint[], $6::text[],
    $7::text[], $8::timestamptz[], $9::timestamptz[], $10::text[], $11::jsonb[], $12::bytea[],
    $13::text[], $14::bytea[])
  ON CONFLICT (event_id, part_day) DO NOTHING
  RETURNING event_id`;
const SESSIONS = `INSERT INTO session_stats AS known
    (session_id, event_type, events, coins, gifts, likes, peak_viewers)
  SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
    $6::bigint[], $7::bigint[])
  ON CONFLICT (session_id, event_type) DO UPDATE SET events = known.events + excluded.events,
    coins = known.coins + excluded.coins, gifts = known.gifts + excluded.gifts,
    likes = known.likes + excluded.likes,
    peak_viewers = greatest(known.peak_viewers, excluded.peak_viewers)`;
const MINUTES = `INSERT INTO stream_minute_stats AS known
    (stream_id, minute, event_type, events, coins, gifts, likes, peak_viewers)
  SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[],
    $6::bigint[], $7::bigint[], $8::bigint[])
  ON CONFLICT (stream_id, minute, event_type) DO UPDATE SET events = known.events + excluded.events,
    coins = known.coins + excluded.coins, gifts = known.gifts + excluded.gifts,
    likes = known.likes + excluded.likes,
    peak_viewers = greatest(known.peak_viewers, excluded.peak_viewers)`;
const VIEWERS = `INSERT INTO session_users AS known
    (session_id, user_id, events, coins, gifts, likes, first_seen_at, last_seen_at)
  SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
    $6::bigint[], $7::timestamptz[], $8::timestamptz[])
  ON CONFLICT (session_id, user_id) DO UPDATE SET events = known.events + excluded.events,
    coins = known.coins + excluded.coins, gifts = known.gifts + excluded.gifts,
    likes = known.likes + excluded.likes,
    first_seen_at = least(known.first_seen_at, excluded.first_seen_at),
    last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at)`;

function row([, fields]) {
  const text = field(fields, 'event');
  const event = JSON.parse(text);
  const data = field(fields, 'raw');
  const isJson = data.startsWith('{');
  const raw = isJson ? Buffer.from(data) : Buffer.from(data, 'base64');
  return { event, text, raw, format: isJson ? 'json' : 'protobuf' };
}

// What each key's rows come to.
function tally(rows, key) {
  const sums = new Map();
  for (const { event } of rows) {
    const [name, parts] = key(event);
    let sum = sums.get(name);
    if (sum === undefined) {
      sum = { parts, events: 0, likes: 0, viewers: null, first: event.ingestedAt, last: event.ingestedAt };
      sums.set(name, sum);
    }
    sum.events += 1;
    if (event.eventType === 'LIKE') sum.likes += Number(event.payload.count ?? 0);
    if (event.eventType === 'ROOM_USER') {
      sum.viewers = Math.max(sum.viewers ?? 0, Number(event.payload.total ?? 0));
    }
    if (event.ingestedAt < sum.first) sum.first = event.ingestedAt;
    if (event.ingestedAt > sum.last) sum.last = event.ingestedAt;
  }
  return [...sums.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum);
}

async function storage() {
  const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
  await client.connect();
  const prepared = (name, text, values) => client.query({ name, text, values });
  return async (entries) => {
    const rows = entries.map(row);
    const column = (value) => rows.map(value);
    await client.query('BEGIN');
    const inserted = await prepared('insert', INSERT, [
      column(({ event }) => Buffer.from(event.eventId, 'hex')),
      column(({ event }) => event.ingestedAt.slice(0, 10)),
      column(({ event }) => event.streamId),
      column(({ event }) => event.sessionId),
      column(({ event }) => event.seqNo),
      column(({ event }) => event.eventType),
      column(({ event }) => event.source),
      column(({ event }) => event.timestamp),
      column(({ event }) => event.ingestedAt),
      column(({ event }) => event.user?.userId || null),
      column(({ text }) => text),
      column(({ raw }) => raw),
      column(({ format }) => format),
      column(({ raw }) => createHash('sha256').update(raw).digest()),
    ]);
    const there = new Set(inserted.rows.map(({ event_id: id }) => id.toString('hex')));
    const fresh = rows.filter(({ event }) => there.has(event.eventId));
    const zero = (sums) => sums.map(() => 0);
    const events = (sums) => sums.map((sum) => sum.events);
    const likes = (sums) => sums.map((sum) => sum.likes);
    const viewers = (sums) => sums.map((sum) => sum.viewers);
    const part = (sums, place) => sums.map((sum) => sum.parts[place]);
    if (fresh.length > 0) {
      const sessions = tally(fresh, ({ sessionId, eventType }) => [
        `${sessionId} ${eventType}`, [sessionId, eventType]]);
      const minutes = tally(fresh, ({ streamId, ingestedAt, eventType }) => {
        const minute = `${ingestedAt.slice(0, 16)}:00Z`;
        return [`${streamId} ${minute} ${eventType}`, [streamId, minute, eventType]];
      });
      const people = tally(fresh.filter(({ event }) => event.user?.userId), ({ sessionId, user }) => [
        `${sessionId} ${user.userId}`, [sessionId, user.userId]]);
      await prepared('sessions', SESSIONS, [part(sessions, 0), part(sessions, 1), events(sessions),
        zero(sessions), zero(sessions), likes(sessions), viewers(sessions)]);
      await prepared('minutes', MINUTES, [part(minutes, 0), part(minutes, 1), part(minutes, 2),
        events(minutes), zero(minutes), zero(minutes), likes(minutes), viewers(minutes)]);
      await prepared('viewers', VIEWERS, [part(people, 0), part(people, 1), events(people), zero(people),
        zero(people), likes(people), people.map((sum) => sum.first), people.map((sum) => sum.last)]);
    }
    await client.query('COMMIT');
    await writing.xack(EVENTS, 'storage', ...entries.map(([id]) => id));
  };
}

process.on('SIGTERM', () => process.exit(0));
if (stage === 'normalizer') await work(RAW, 'normalizer', normalizer());
else if (stage === 'storage') await work(EVENTS, 'storage', await storage());
else throw new Error(`no stage ${stage}: normalizer or storage`);
