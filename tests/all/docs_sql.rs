//! What docs/SQL.md shows works: every block marked `sql` is run, in order, over one home.
//!
//! A block marked `sql fails` must fail. `{data}` and `{work}` mean what they mean in `slt`.

use anyhow::{Context, Result};
use corpusmill_tests::{Database, repository};

struct Block {
    line: usize,
    fails: bool,
    sql: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        match line.trim_end() {
            "```sql" | "```sql fails" if !inside => {
                inside = true;
                found.push(Block {
                    line: number + 2,
                    fails: line.contains("fails"),
                    sql: String::new(),
                });
            }
            "```" => inside = false,
            line if inside => {
                if let Some(block) = found.last_mut() {
                    block.sql.push_str(line);
                    block.sql.push('\n');
                }
            }
            _ => {}
        }
    }
    found
}

async fn run(blocks: Vec<Block>) -> Result<Vec<String>> {
    let database = Database::new().await?;
    let mut wrong = Vec::new();
    for block in blocks {
        match (database.run(&block.sql).await, block.fails) {
            (Err(error), false) => wrong.push(format!("docs/SQL.md:{}: {error}", block.line)),
            (Ok(_), true) => wrong.push(format!("docs/SQL.md:{}: worked, but is marked to fail", block.line)),
            _ => {}
        }
    }
    Ok(wrong)
}

#[test]
fn every_example_of_the_manual_runs() -> Result<()> {
    let path = repository().join("docs/SQL.md");
    let page = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let blocks = blocks(&page);
    assert!(blocks.len() > 10, "docs/SQL.md has only {} examples", blocks.len());
    let thread = std::thread::Builder::new()
        .stack_size(32 << 20)
        .spawn(move || -> Result<Vec<String>> {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .thread_stack_size(16 << 20)
                .build()?;
            runtime.block_on(run(blocks))
        })?;
    let wrong = thread.join().map_err(|_| anyhow::anyhow!("an example panicked"))??;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
