//! `docs/contracts/storage.md` says what the migrated database is.

use std::fmt::Write as _;

use tokio_postgres::Client;

use super::rig::Rig;

/// Above it: prose. Below it: the catalogue, in the form of [`describe`].
const MARK: &str = "<!-- Below this line: written from the migrated database. -->\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_describes_the_migrated_database() {
    let rig = Rig::new().await;
    let current = describe(&rig.client().await).await;
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/contracts/storage.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (prose, committed) = page.split_once(MARK).expect("the page has its mark");
    if std::env::var_os("UPDATE_CONTRACTS").is_some() {
        std::fs::write(&path, format!("{prose}{MARK}{current}")).unwrap();
        return;
    }
    assert!(
        committed == current,
        "docs/contracts/storage.md is stale: run `UPDATE_CONTRACTS=1 cargo nextest run -p daemon \
         the_page_describes_the_migrated_database` and commit it"
    );
}

/// Every table with its columns, constraints and indexes, and every function.
async fn describe(client: &Client) -> String {
    let mut page = String::new();
    // Partitions are like their table; the history is the migration library's.
    let tables = client
        .query(
            "SELECT oid, relname::text, obj_description(oid, 'pg_class') FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
                AND NOT relispartition AND relname <> 'schema_history'
             ORDER BY relname",
            &[],
        )
        .await
        .unwrap();
    assert!(tables.len() >= 5);
    for table in tables {
        let (oid, name): (u32, String) = (table.get(0), table.get(1));
        let comment: Option<String> = table.get(2);
        let comment = comment.unwrap_or_else(|| panic!("table {name} has no comment"));
        write!(
            page,
            "\n## {name}\n\n{comment}\n\n| Column | Type | Null | Meaning |\n|---|---|---|---|\n"
        )
        .unwrap();
        let columns = client
            .query(
                "SELECT attname::text, format_type(atttypid, atttypmod), NOT attnotnull,
                    attgenerated = 's', col_description(attrelid, attnum)
                 FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                &[&oid],
            )
            .await
            .unwrap();
        for column in columns {
            let (column_name, kind): (String, String) = (column.get(0), column.get(1));
            let comment: Option<String> = column.get(4);
            let comment =
                comment.unwrap_or_else(|| panic!("column {name}.{column_name} has no comment"));
            let null = if column.get(2) { "yes" } else { "no" };
            let kind = if column.get(3) {
                format!("{kind}, generated")
            } else {
                kind
            };
            writeln!(
                page,
                "| `{column_name}` | {kind} | {null} | {} |",
                comment.replace('|', "\\|")
            )
            .unwrap();
        }
        let rules = client
            .query(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint
                 WHERE conrelid = $1 AND contype IN ('p', 'u', 'c', 'f')
                 ORDER BY array_position(ARRAY['p', 'u', 'f', 'c'], contype::text), conname",
                &[&oid],
            )
            .await
            .unwrap();
        let indexes = client
            .query(
                "SELECT pg_get_indexdef(indexrelid) FROM pg_index
                 WHERE indrelid = $1 AND NOT indisunique ORDER BY indexrelid::regclass::text",
                &[&oid],
            )
            .await
            .unwrap();
        page.push('\n');
        for rule in rules {
            writeln!(page, "- `{}`", rule.get::<_, String>(0)).unwrap();
        }
        for index in indexes {
            let index: String = index.get(0);
            let (_, columns) = index.split_once(" USING ").unwrap();
            writeln!(page, "- index `{columns}`").unwrap();
        }
    }
    let functions = client
        .query(
            "SELECT format('%s(%s) → %s', proname, pg_get_function_arguments(oid), pg_get_function_result(oid)),
                obj_description(oid, 'pg_proc')
             FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    page.push_str("\n## Functions\n\n");
    for function in functions {
        let comment: Option<String> = function.get(1);
        let name: String = function.get(0);
        let comment = comment.unwrap_or_else(|| panic!("function {name} has no comment"));
        writeln!(page, "- `{name}`: {comment}").unwrap();
    }
    page
}
