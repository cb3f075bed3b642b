-- A double-entry ledger with its users and documents. {…} is filled in by demo/ledger.py; a section that begins with
-- "-- step" is one transaction of its own. Tables are filled before their indexes and foreign keys are made: that is faster, and
-- with wal_level=minimal it writes no WAL.

-- step schema
CREATE TABLE currency (code char(3) PRIMARY KEY, exponent smallint NOT NULL);
INSERT INTO currency VALUES ('EUR', 2), ('USD', 2), ('CHF', 2), ('JPY', 0);

-- step users
CREATE TABLE app_user (
    id         bigint      NOT NULL,
    email      text        NOT NULL,
    full_name  text        NOT NULL,
    kyc        text        NOT NULL CHECK (kyc IN ('pending', 'passed', 'refused')),
    profile    jsonb       NOT NULL,
    created_at timestamptz NOT NULL
);
INSERT INTO app_user
SELECT i, 'user' || i || '@example.com',
       (ARRAY['Anna','Ben','Chiara','David','Elif','Farid','Greta','Hugo','Ida','Jan'])[1 + i % 10] || ' '
           || (ARRAY['Meier','Rossi','Novak','Smith','Kaya','Dubois','Silva','Weber'])[1 + i / 10 % 8],
       (ARRAY['passed','passed','passed','pending','refused'])[1 + i % 5],
       jsonb_build_object('language', (ARRAY['de','en','fr','it'])[1 + i % 4], 'newsletter', i % 3 = 0,
                          'device', md5(i::text)),
       timestamptz '2021-01-01' + i * interval '7 minutes'
FROM generate_series(1, {users}) AS i;
ALTER TABLE app_user ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX app_user_email ON app_user (email);

-- step accounts
CREATE TABLE account (
    id        bigint      NOT NULL,
    user_id   bigint      NOT NULL,
    kind      text        NOT NULL CHECK (kind IN ('current', 'savings', 'clearing')),
    currency  char(3)     NOT NULL,
    iban      text        NOT NULL,
    opened_at timestamptz NOT NULL
);
INSERT INTO account
SELECT i, 1 + i % {users}, (ARRAY['current','current','savings','clearing'])[1 + i % 4],
       -- Both accounts of an entry are of one currency: their numbers are equal modulo 4.
       (ARRAY['EUR','USD','CHF','JPY'])[1 + i % 4], 'DE' || lpad((i * 7919 % 97)::text, 2, '0') || lpad(i::text, 18, '0'),
       timestamptz '2021-01-02' + i * interval '3 minutes'
FROM generate_series(0, {accounts} - 1) AS i;
ALTER TABLE account ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX account_iban ON account (iban);
CREATE INDEX account_user ON account (user_id);
ALTER TABLE account ADD FOREIGN KEY (user_id) REFERENCES app_user, ADD FOREIGN KEY (currency) REFERENCES currency;

-- step entries
CREATE TABLE entry (
    id          bigint      NOT NULL,
    booked_at   timestamptz NOT NULL,
    reference   text        NOT NULL,
    description text        NOT NULL
);
INSERT INTO entry
SELECT i, timestamptz '2022-01-01' + i * interval '11 seconds', 'TX-' || upper(substr(md5(i::text), 1, 12)),
       (ARRAY['Card payment','Salary','Rent','Direct debit','Transfer between accounts','Interest','Fee'])[1 + i % 7]
FROM generate_series(1, {entries}) AS i;
ALTER TABLE entry ADD PRIMARY KEY (id);

-- step postings
CREATE TABLE posting (
    id         bigint        NOT NULL,
    entry_id   bigint        NOT NULL,
    account_id bigint        NOT NULL,
    side       "char"        NOT NULL CHECK (side IN ('D', 'C')),
    currency   char(3)       NOT NULL,
    amount     numeric(18,2) NOT NULL CHECK (amount > 0)
);
INSERT INTO posting
SELECT 2 * i + s, i, (i::bigint * CASE s WHEN 0 THEN 48271 ELSE 16807 END * 4 + i % 4) % {accounts},
       CASE s WHEN 0 THEN 'D' ELSE 'C' END::"char", (ARRAY['EUR','USD','CHF','JPY'])[1 + i % 4],
       (1 + i::bigint * 7919 % 249900)::numeric / CASE WHEN i % 4 = 3 THEN 1 ELSE 100 END
FROM generate_series(1, {entries}) AS i, generate_series(0, 1) AS s;
ALTER TABLE posting ADD PRIMARY KEY (id);
CREATE INDEX posting_entry ON posting (entry_id);
CREATE INDEX posting_account ON posting (account_id);

-- step documents
CREATE TABLE document (
    id          bigint      NOT NULL,
    user_id     bigint      NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('statement', 'contract', 'identity')),
    uploaded_at timestamptz NOT NULL,
    sha256      bytea       NOT NULL,
    body        text        NOT NULL,
    scan        bytea       NOT NULL
);
-- As it came: PostgreSQL's own compression would take longer than all the rest.
ALTER TABLE document ALTER body SET STORAGE EXTERNAL, ALTER scan SET STORAGE EXTERNAL;
CREATE TEMPORARY TABLE stock (words bytea, noise bytea);
ALTER TABLE stock ALTER words SET STORAGE EXTERNAL, ALTER noise SET STORAGE EXTERNAL;
INSERT INTO stock SELECT
    (SELECT string_agg(convert_to((ARRAY['account','balance','the','customer','agrees','to','pay','interest','of','amount',
        'within','days','after','notice','bank','reference','statement','period','closing','date'])[1 + (random() * 19)::int]
        || CASE WHEN random() < 0.1 THEN E'.\n' ELSE ' ' END || CASE WHEN random() < 0.2 THEN i::text || ' ' ELSE '' END, 'UTF8'), '')
     FROM generate_series(1, 150000) AS i),
    (SELECT string_agg(sha256(random()::text::bytea), '') FROM generate_series(1, 32768) AS i);
INSERT INTO document
SELECT i, 1 + i * 7 % {users}, (ARRAY['statement','contract','identity'])[1 + i % 3],
       timestamptz '2022-01-01' + i * interval '1 hour', sha256(i::text::bytea),
       convert_from(substr(words, 1 + (random() * 900000)::int, 24000), 'UTF8'), substr(noise, 1 + (random() * 1000000)::int, 16000)
FROM generate_series(1, {documents}) AS i, stock;
ALTER TABLE document ADD PRIMARY KEY (id);
CREATE INDEX document_user ON document (user_id);

-- step constraints
ALTER TABLE posting ADD FOREIGN KEY (account_id) REFERENCES account, ADD FOREIGN KEY (currency) REFERENCES currency,
    ADD FOREIGN KEY (entry_id) REFERENCES entry;
ALTER TABLE document ADD FOREIGN KEY (user_id) REFERENCES app_user;
