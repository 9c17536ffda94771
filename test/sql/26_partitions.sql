-- Router tables as partitions and as children: rows that move, inherited updates.
\getenv host PGHOST
\getenv port PGPORT
\set VERBOSITY terse
\set me :USER
\c regress_database regress_owner
CREATE TABLE region (area text, id integer, note text DEFAULT 'there', CHECK (area = 'far'));
CREATE TABLE child (id integer, note text, extra integer DEFAULT 7);
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON region, child TO regress_runtime;
\c regression :me
SET kessel.tenant = 'ember';
CREATE TABLE regions (area text, id integer, note text DEFAULT 'here') PARTITION BY LIST (area);
CREATE TABLE near (note text DEFAULT 'near', id integer, area text);
ALTER TABLE regions ATTACH PARTITION near FOR VALUES IN ('near');
CREATE FOREIGN TABLE far (id integer, gone text, area text, note text) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'region');
ALTER FOREIGN TABLE far DROP COLUMN gone;
ALTER TABLE regions ATTACH PARTITION far FOR VALUES IN ('far');

-- routed, with RETURNING, conflicts and a partition's trigger
\set QUIET off
INSERT INTO regions VALUES ('far', 1, 'one'), ('near', 2, 'two'), ('far', 3, NULL) RETURNING tableoid::regclass, *;
INSERT INTO regions (area, id) SELECT CASE WHEN i % 2 = 0 THEN 'far' ELSE 'near' END, i FROM generate_series(11, 20) i ON CONFLICT DO NOTHING;
INSERT INTO regions VALUES ('nowhere', 1);
\set QUIET on
SELECT tableoid::regclass, count(*), min(note), max(note) FROM regions GROUP BY 1 ORDER BY 1;

-- moved: from here to there, but not into what is to be updated itself
UPDATE regions SET area = 'far', note = 'moved' WHERE area = 'near' AND id = 2 RETURNING tableoid::regclass, *;
UPDATE regions SET area = 'far' WHERE id = 11;
UPDATE regions SET area = 'near' WHERE id = 1;
UPDATE regions SET note = note || '!' WHERE id IN (1, 11) RETURNING tableoid::regclass, id, note;
SELECT tableoid::regclass, area, id, note FROM regions WHERE id < 12 ORDER BY id;
CREATE FUNCTION pg_temp.tell() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE NOTICE '% % on %: % %', TG_WHEN, TG_OP, TG_TABLE_NAME, old, new; RETURN new; END$$;
CREATE TRIGGER tell_before BEFORE INSERT ON far FOR EACH ROW EXECUTE FUNCTION pg_temp.tell();
CREATE TRIGGER tell_after AFTER INSERT ON far FOR EACH ROW EXECUTE FUNCTION pg_temp.tell();
UPDATE regions SET area = 'far' WHERE area = 'near' AND id = 13;
INSERT INTO regions VALUES ('far', 4, 'four');
DELETE FROM regions WHERE id IN (4, 13) RETURNING tableoid::regclass, id;
DROP TABLE regions;

-- inherited
CREATE TABLE parent (id integer, note text);
INSERT INTO parent VALUES (1, 'local');
CREATE FOREIGN TABLE offspring (extra integer) INHERITS (parent) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'child');
INSERT INTO offspring VALUES (1, 'remote'), (2, 'remote');
UPDATE parent SET note = upper(note) || id WHERE id = 1 RETURNING tableoid::regclass, *;
UPDATE parent SET id = parent.id + 10 FROM (VALUES (1), (2)) v (n) WHERE parent.id = v.n RETURNING tableoid::regclass, parent.*, n;
DELETE FROM parent WHERE left(note, 5) <> 'LOCAL' RETURNING tableoid::regclass, id;
SELECT tableoid::regclass, * FROM parent;
DROP TABLE parent CASCADE;
\c regress_database regress_owner
DROP TABLE region, child;
