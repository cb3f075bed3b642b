"""The financial data of these tests: accounts, postings that debit one and credit another, and what must always hold.

``BALANCED`` holds at any consistent moment; a copy that mixes moments breaks it.
"""

from __future__ import annotations

from typing import Any

from tests.support.postgres import PgCluster

ACCOUNTS = 2000
SCHEMA = f"""
create table account (id int primary key, balance bigint not null default 0);
create table posting (id bigint generated always as identity primary key, debit int not null, credit int not null,
    amount bigint not null, booked timestamptz not null default clock_timestamp(), note text not null default '');
create index on posting (debit);
create index on posting (credit);
insert into account select g from generate_series(1, {ACCOUNTS}) g;
create function transfer(f int, t int, n bigint, text text default '') returns void language sql as $$
    -- The lower id first, so that two transfers cannot wait for each other.
    update account set balance = balance + case when f = t then 0 when id = f then -n else n end where id = least(f, t);
    update account set balance = balance + case when id = f then -n else n end where id = greatest(f, t) and f <> t;
    insert into posting (debit, credit, amount, note) values (f, t, n, text);
$$;
"""
#: Sum of debits = sum of credits, and every account shows what was posted to it.
BALANCED = """
select (select coalesce(sum(balance), 0) from account) = 0 and not exists (
    select 1 from account a
    join (select id, sum(n) n
          from (select debit id, -amount n from posting union all select credit, amount from posting) p
          group by id) s using (id)
    where a.balance <> s.n)
"""
TURNOVER = "select count(*) || '/' || coalesce(sum(amount), 0) from posting"
PREDICATES: list[dict[str, Any]] = [{"name": "debits equal credits", "sql": BALANCED}]
MEASUREMENTS: list[dict[str, Any]] = [{"name": "turnover", "sql": TURNOVER}]
#: For pgbench -f.
TRANSFER = f"""
\\set f random(1, {ACCOUNTS})
\\set t random(1, {ACCOUNTS})
\\set n random(1, 100000)
select transfer(:f, :t, :n, md5(random()::text));
"""


def furnish(cluster: PgCluster, *, postings: int = 4000, dbname: str = "postgres") -> None:
    """Make the ledger and book some."""
    cluster.psql(SCHEMA, dbname=dbname)
    cluster.execute(
        f"select transfer(1 + (g * 7919) % {ACCOUNTS}, 1 + (g * 104729 + 1) % {ACCOUNTS},"
        f" (g * 31) % 1000, md5(g::text)) from generate_series(1, {postings}) g",
        dbname=dbname,
    )


def turnover(cluster: PgCluster, *, dbname: str = "postgres", user: str = "postgres") -> str:
    """Number and sum of the postings; an AssertionError when the books do not balance."""
    with cluster.connect(dbname, user) as connection:
        (balanced,) = connection.execute(BALANCED).fetchone() or (None,)
        (found,) = connection.execute(TURNOVER).fetchone() or (None,)
    assert balanced is True, f"the books of {cluster.data_directory} do not balance"
    return str(found)
