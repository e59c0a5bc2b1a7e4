//! Groups: a fixed run of turns becomes packs, with nothing carried over to the next group.

use std::ops::Range;

use crate::bijection::Bijection;
use crate::error::{Error, Result};
use crate::key::{self, Purpose};
use crate::lengths::Lengths;
use crate::mix::Arrangement;
use crate::pack::best_fit;
use crate::spec::{LongDocuments, OrderSpec, PlanSpec, Shape};
use crate::step::{Counts, Piece};
use crate::strata::Stratum;

/// The packs of one group.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) pieces: Vec<Piece>,
    /// Where each pack ends in `pieces`.
    pub(crate) ends: Vec<u32>,
    /// Documents of the group that are in no pack.
    pub(crate) left_out: u64,
    pub(crate) empty: u64,
    /// Positions in `pieces` of documents whose end was cut off.
    pub(crate) truncated: Vec<u32>,
    /// Positions in `pieces` of the first pieces of documents that were split.
    pub(crate) split: Vec<u32>,
}

/// One draw.
#[derive(Debug, Clone, Copy)]
struct Draw {
    source: u32,
    length: u32,
    slot: u64,
}

impl Group {
    /// Computes group `number`: turns `number · group_turns ..`, up to the end of a finite plan.
    pub(crate) fn new(
        spec: &PlanSpec,
        strata: &[Stratum],
        arrangement: &Arrangement,
        lengths: &dyn Lengths,
        number: u64,
    ) -> Result<Self> {
        let turns = u64::from(spec.group_turns);
        let from = number * turns;
        let to = arrangement.end().map_or(from + turns, |end| end.min(from + turns));
        if from >= to {
            return Ok(Self::default());
        }
        let draws = draws(spec, strata, arrangement, lengths, from..to)?;
        Ok(match spec.shape {
            Shape::Fixed { max_length } => Self::fixed(&draws, max_length.unwrap_or(u32::MAX)),
            Shape::Packed { sequence_length, long } => {
                let shuffle = match spec.order {
                    OrderSpec::Sequential => None,
                    OrderSpec::Shuffled { .. } => Some(key::derive(spec.seed, Purpose::Packs, 0, number, 0)),
                };
                Self::packed(&draws, sequence_length, long, shuffle)
            }
        })
    }

    fn fixed(draws: &[Draw], max_length: u32) -> Self {
        let piece = |d: &Draw| Piece {
            slot: d.slot,
            source: d.source,
            start: 0,
            length: d.length.min(max_length),
            masked: false,
        };
        let cut = draws.iter().enumerate().filter(|(_, d)| d.length > max_length);
        Self {
            pieces: draws.iter().map(piece).collect(),
            ends: (1..=draws.len() as u32).collect(),
            truncated: cut.map(|(i, _)| i as u32).collect(),
            ..Self::default()
        }
    }

    fn packed(draws: &[Draw], capacity: u32, long: LongDocuments, shuffle: Option<[u64; 2]>) -> Self {
        let mut group = Self::default();
        let mut items = Vec::with_capacity(draws.len());
        let (mut truncated, mut split) = (Vec::new(), Vec::new());
        for draw in draws {
            let mut piece = Piece {
                slot: draw.slot,
                source: draw.source,
                start: 0,
                length: draw.length,
                masked: false,
            };
            if draw.length == 0 {
                group.empty += 1;
            } else if draw.length <= capacity {
                items.push(piece);
            } else {
                match long {
                    LongDocuments::Drop => group.left_out += 1,
                    LongDocuments::Truncate => {
                        truncated.push(items.len() as u32);
                        piece.length = capacity;
                        items.push(piece);
                    }
                    LongDocuments::Split => {
                        split.push(items.len() as u32);
                        while piece.start < draw.length {
                            piece.length = capacity.min(draw.length - piece.start);
                            items.push(piece);
                            piece.start += piece.length;
                        }
                    }
                }
            }
        }
        let (mut pack_of, packs) = best_fit(&items.iter().map(|p| p.length).collect::<Vec<_>>(), capacity);
        if let Some(key) = shuffle {
            // Packs with many short documents have early first documents: undo it.
            let bijection = Bijection::new(u64::from(packs), key);
            let places: Vec<u32> = (0..u64::from(packs)).map(|p| bijection.forward(p) as u32).collect();
            pack_of.iter_mut().for_each(|p| *p = places[*p as usize]);
        }
        group.lay_out(&items, &pack_of, packs, &truncated, &split);
        group
    }

    /// Sorts items by pack; inside a pack they keep the order of their turns.
    fn lay_out(&mut self, items: &[Piece], pack_of: &[u32], packs: u32, truncated: &[u32], split: &[u32]) {
        let mut next = vec![0u32; packs as usize + 1];
        pack_of.iter().for_each(|&p| next[p as usize + 1] += 1);
        for pack in 1..next.len() {
            next[pack] += next[pack - 1];
        }
        self.ends = next[1..].to_vec();
        let empty = Piece {
            slot: 0,
            source: 0,
            start: 0,
            length: 0,
            masked: false,
        };
        self.pieces = vec![empty; items.len()];
        let mut place_of = vec![0u32; items.len()];
        for ((item, &pack), place) in items.iter().zip(pack_of).zip(&mut place_of) {
            let to = &mut next[pack as usize];
            self.pieces[*to as usize] = *item;
            *place = *to;
            *to += 1;
        }
        let places = |items: &[u32]| {
            let mut places: Vec<u32> = items.iter().map(|&i| place_of[i as usize]).collect();
            places.sort_unstable();
            places
        };
        self.truncated = places(truncated);
        self.split = places(split);
    }

    /// How many packs there are.
    pub(crate) fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Where pack `pack` starts in `pieces`.
    pub(crate) fn start(&self, pack: u32) -> u32 {
        pack.checked_sub(1).map_or(0, |before| self.ends[before as usize])
    }

    /// What became of the documents of packs `from .. to`; those in no pack count with pack 0.
    pub(crate) fn counts(&self, from: u32, to: u32) -> Counts {
        let (first, last) = (self.start(from), self.start(to));
        let inside =
            |places: &[u32]| (places.partition_point(|&p| p < last) - places.partition_point(|&p| p < first)) as u64;
        let pieces = &self.pieces[first as usize..last as usize];
        let at_start = from == 0;
        Counts {
            documents: pieces.iter().filter(|p| p.start == 0).count() as u64,
            split: inside(&self.split),
            truncated: inside(&self.truncated),
            left_out: if at_start { self.left_out } else { 0 },
            empty: if at_start { self.empty } else { 0 },
            masked: 0,
            tokens: pieces.iter().map(|p| u64::from(p.length)).sum(),
            packs: u64::from(to - from),
        }
    }
}

/// The draws of `range`, in order, with their lengths.
fn draws(
    spec: &PlanSpec,
    strata: &[Stratum],
    arrangement: &Arrangement,
    lengths: &dyn Lengths,
    range: Range<u64>,
) -> Result<Vec<Draw>> {
    let mut turns = Vec::with_capacity((range.end - range.start) as usize);
    arrangement.strata(range.start, range.end, &mut turns);
    let first = arrangement.counts(range.start);
    let mut next = vec![0u32; strata.len()];
    turns.iter().for_each(|&x| next[usize::from(x)] += 1);

    // All draws of one stratum stand together, so that each is computed and measured in one run.
    let mut slots = Vec::with_capacity(turns.len());
    let mut measured = vec![0u32; turns.len()];
    for (x, stratum) in strata.iter().enumerate() {
        let start = slots.len();
        let count = std::mem::replace(&mut next[x], start as u32);
        if count == 0 {
            continue;
        }
        stratum.order.draw(first[x], u64::from(count), &mut slots);
        slots[start..]
            .iter_mut()
            .for_each(|ordinal| *ordinal = stratum.selection.select(*ordinal));
        let source = stratum.source as usize;
        let gathered = lengths.gather(source, &slots[start..], &mut measured[start..slots.len()]);
        gathered.map_err(|e| Error::Lengths {
            source_name: spec.sources[source].name.clone(),
            source: e,
        })?;
    }
    let draw = |&x: &u16| {
        let at = next[usize::from(x)] as usize;
        next[usize::from(x)] += 1;
        Draw {
            source: strata[usize::from(x)].source,
            length: measured[at],
            slot: slots[at],
        }
    };
    Ok(turns.iter().map(draw).collect())
}
