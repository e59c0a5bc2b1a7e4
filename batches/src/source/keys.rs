//! From the keys of rows to their slots: a few blocks are read, because rows stand in the order of their keys' hashes.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use corpusmill_corpus::{key_hashes, shard_of, value_digests};
use futures::{StreamExt, TryStreamExt};

use super::{SCAN_BLOCKS, Source};
use crate::error::{BatchError, Result};

/// A key that is looked for.
#[derive(Clone, Copy)]
struct Wanted {
    /// Its place in the question.
    at: usize,
    hash: u64,
    digest: u128,
}

impl Source {
    /// The slots of rows by their keys, each key as the texts of its columns; `None` for a key that no row has.
    ///
    /// # Errors
    /// Plan for a text that is no value of its column; those of reading.
    pub(crate) async fn slots_of(self: &Arc<Self>, keys: &[Vec<String>]) -> Result<Vec<Option<u64>>> {
        let columns = self.key_columns(keys)?;
        let hashed = key_hashes(&columns)?.into_iter().zip(value_digests(&columns)?);
        let mut wanted: Vec<Wanted> = hashed
            .enumerate()
            .map(|(at, (hash, digest))| Wanted { at, hash, digest })
            .collect();
        wanted.sort_unstable_by_key(|w| w.hash);
        let manifest = self.reader.manifest();
        let searches = manifest.shard_files.iter().enumerate().map(|(number, file)| {
            let here = |w: &&Wanted| shard_of(w.hash, manifest.shards) == file.shard;
            let wanted: Vec<Wanted> = wanted.iter().filter(here).copied().collect();
            let source = self.clone();
            async move { source.search(number, &wanted).await }
        });
        let mut found = futures::stream::iter(searches).buffer_unordered(SCAN_BLOCKS);
        let mut slots = vec![None; keys.len()];
        while let Some(rows) = found.try_next().await? {
            for (at, slot) in rows {
                slots[at] = Some(slot);
            }
        }
        Ok(slots)
    }

    /// The key columns of `keys`, in the types of the version.
    fn key_columns(&self, keys: &[Vec<String>]) -> Result<Vec<ArrayRef>> {
        let names = &self.reader.manifest().primary_key;
        if let Some(odd) = keys.iter().find(|key| key.len() != names.len()) {
            return Err(BatchError::Plan(format!(
                "key ({}): the key of {} has {} columns: {}",
                odd.join(", "),
                self.name,
                names.len(),
                names.join(", ")
            )));
        }
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let column = |(number, name): (usize, &String)| {
            let texts: StringArray = keys.iter().map(|key| Some(key[number].as_str())).collect();
            let field = self.schema.field_with_name(name);
            let kind = field
                .map_err(BatchError::arrow(format!("key column `{name}`")))?
                .data_type();
            cast_with_options(&texts, kind, &strict)
                .map_err(|e| BatchError::Plan(format!("key column `{name}` of {} is {kind}: {e}", self.name)))
        };
        names.iter().enumerate().map(column).collect()
    }

    /// Looks for keys, sorted by hash, in a shard: the middle block of a run says on which side of it the others are.
    async fn search(&self, shard: usize, wanted: &[Wanted]) -> Result<Vec<(usize, u64)>> {
        let names: Vec<&str> = self.reader.manifest().primary_key.iter().map(String::as_str).collect();
        let bound = |shard: usize| self.blocks.partition_point(|b| b.shard < shard);
        let mut open: Vec<(Range<usize>, Range<usize>)> = vec![(bound(shard)..bound(shard + 1), 0..wanted.len())];
        let mut found = Vec::new();
        while let Some((blocks, part)) = open.pop() {
            if blocks.is_empty() || part.is_empty() {
                continue;
            }
            let middle = blocks.start + blocks.len() / 2;
            let place = self.blocks[middle];
            let columns = self.read(&place, &names).await?.columns().to_vec();
            let (hashes, digests) = (key_hashes(&columns)?, value_digests(&columns)?);
            let (Some(&first), Some(&last)) = (hashes.first(), hashes.last()) else {
                continue;
            };
            let here = &wanted[part.clone()];
            // Rows of one hash may lie on both sides of a block's end.
            let before = part.start + here.partition_point(|w| w.hash <= first);
            let behind = part.start + here.partition_point(|w| w.hash < last);
            open.push((blocks.start..middle, part.start..before));
            open.push((middle + 1..blocks.end, behind..part.end));
            for w in here.iter().filter(|w| (first..=last).contains(&w.hash)) {
                let from = hashes.partition_point(|hash| *hash < w.hash);
                let mut same = (from..hashes.len()).take_while(|row| hashes[*row] == w.hash);
                if let Some(row) = same.find(|row| digests[*row] == w.digest) {
                    found.push((w.at, place.first_slot + row as u64));
                }
            }
        }
        Ok(found)
    }
}
