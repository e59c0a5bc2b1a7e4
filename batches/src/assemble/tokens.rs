//! Token fields of a batch: copies runs of ids out of decoded blocks, and derives positions, masks and bounds.

use std::sync::Arc;

use arrow::buffer::MutableBuffer;
use arrow::datatypes::ArrowNativeType;

use crate::blocks::{DecodedBlock, IdRun};
use crate::error::{BatchError, Result};
use crate::values::{Dtype, SlabPool, Values};

use super::{Documents, Layout, RowPlace};

/// An element type that token ids are delivered in.
pub(crate) trait Id: ArrowNativeType {
    const DTYPE: Dtype;
    fn of(value: i32) -> Self;
    /// Fills `to` with as many ids.
    fn copy(from: IdRun<'_>, to: &mut [Self]);
}

impl Id for i32 {
    const DTYPE: Dtype = Dtype::I32;
    fn of(value: i32) -> Self {
        value
    }
    fn copy(from: IdRun<'_>, to: &mut [Self]) {
        match from {
            IdRun::Narrow(from) => widen(from, to),
            IdRun::Wide(from) => to.copy_from_slice(from),
        }
    }
}

impl Id for i64 {
    const DTYPE: Dtype = Dtype::I64;
    fn of(value: i32) -> Self {
        i64::from(value)
    }
    fn copy(from: IdRun<'_>, to: &mut [Self]) {
        match from {
            IdRun::Narrow(from) => widen(from, to),
            IdRun::Wide(from) => widen(from, to),
        }
    }
}

fn widen<S: Copy, T: From<S>>(from: &[S], to: &mut [T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = T::from(*from);
    }
}

/// Copies the tokens of each document to its place, and `pad_id` everywhere else: [rows, width].
///
/// # Errors
/// Corrupt when a stored row has fewer tokens than the version's row lengths say.
pub(crate) fn input_ids<T: Id>(
    documents: &Documents,
    places: &[RowPlace],
    blocks: &[Option<Arc<DecodedBlock>>],
    layout: Layout,
    pad_id: i32,
    pool: &Arc<SlabPool>,
) -> Result<Arc<Values>> {
    let mut slab = pool.take(layout.rows * layout.width * size_of::<T>());
    let all = slab.typed_data_mut::<T>();
    let pad = T::of(pad_id);
    let mut filled = 0;
    for (doc, place) in places.iter().enumerate() {
        let (at, length) = documents.span(doc, layout);
        all[filled..at].fill(pad);
        let to = &mut all[at..at + length];
        match place.block.and_then(|b| blocks[b as usize].as_ref()) {
            None => to.fill(pad),
            Some(block) => {
                let offset = documents.offset[doc] as usize;
                let tokens = block.tokens_of(place.row as usize);
                let from = tokens.get(offset..offset + length).ok_or_else(|| {
                    BatchError::Corrupt(format!(
                        "slot {}: the row has {} tokens and its version's row lengths say at least {}: \
                         rebuild the corpus, or restore the file of row lengths",
                        documents.slot[doc],
                        tokens.len(),
                        offset + length
                    ))
                })?;
                T::copy(from, to);
            }
        }
        filled = at + length;
    }
    all[filled..].fill(pad);
    Ok(Values::filled(T::DTYPE, &[layout.rows, layout.width], slab, pool))
}

/// Fills an array [rows, width] that is `outside` except in documents, where `inside(doc, its elements)` writes.
fn derived<T: ArrowNativeType>(
    documents: &Documents,
    layout: Layout,
    dtype: Dtype,
    outside: T,
    pool: &Arc<SlabPool>,
    inside: impl Fn(usize, &mut [T]),
) -> Arc<Values> {
    let mut slab: MutableBuffer = pool.take(layout.rows * layout.width * size_of::<T>());
    let all = slab.typed_data_mut::<T>();
    let mut filled = 0;
    for doc in 0..documents.len() {
        let (at, length) = documents.span(doc, layout);
        all[filled..at].fill(outside);
        inside(doc, &mut all[at..at + length]);
        filled = at + length;
    }
    all[filled..].fill(outside);
    Values::filled(dtype, &[layout.rows, layout.width], slab, pool)
}

/// Positions in the document, from 0 at the first delivered token; 0 in the padding.
pub(crate) fn position_ids<T: Id>(documents: &Documents, layout: Layout, pool: &Arc<SlabPool>) -> Arc<Values> {
    derived(documents, layout, T::DTYPE, T::of(0), pool, |_, to| {
        for (position, to) in to.iter_mut().enumerate() {
            *to = T::of(position as i32);
        }
    })
}

/// Number of the document in its pack; -1 in the padding.
pub(crate) fn doc_ids(documents: &Documents, layout: Layout, pool: &Arc<SlabPool>) -> Arc<Values> {
    derived(documents, layout, Dtype::I32, -1i32, pool, |doc, to| {
        to.fill(documents.number_in_pack(doc))
    })
}

/// True for tokens of delivered documents, false for padding and masked rows.
pub(crate) fn loss_mask(documents: &Documents, layout: Layout, pool: &Arc<SlabPool>) -> Arc<Values> {
    derived(documents, layout, Dtype::Bool, 0u8, pool, |doc, to| {
        to.fill(documents.delivered[doc])
    })
}

/// 1 for tokens of delivered rows, 0 for padding and masked rows.
pub(crate) fn attention_mask<T: Id>(documents: &Documents, layout: Layout, pool: &Arc<SlabPool>) -> Arc<Values> {
    derived(documents, layout, T::DTYPE, T::of(0), pool, |doc, to| {
        to.fill(T::of(i32::from(documents.delivered[doc])));
    })
}

/// Bounds of the segments in the flattened batch, and the longest segment. The padding of a pack is a segment.
///
/// This is the form that FlashAttention's `flash_attn_varlen_func` takes: int32, [segments + 1], from 0.
pub(crate) fn segment_bounds(documents: &Documents, layout: Layout) -> (Vec<i32>, i32) {
    let mut bounds = Vec::with_capacity(documents.len() + layout.rows + 1);
    bounds.push(0i32);
    let mut longest = 0;
    let mut end = |bounds: &mut Vec<i32>, at: usize| {
        let last = bounds.last().copied().unwrap_or(0);
        let at = at as i32;
        if at > last {
            longest = longest.max(at - last);
            bounds.push(at);
        }
    };
    for doc in 0..documents.len() {
        let (at, length) = documents.span(doc, layout);
        // Padding behind the last document of each pack before this one.
        let row = at / layout.width.max(1);
        while let Some(&last) = bounds.last()
            && (last as usize) < row * layout.width
        {
            end(&mut bounds, (last as usize / layout.width + 1) * layout.width);
        }
        end(&mut bounds, at + length);
    }
    while let Some(&last) = bounds.last()
        && (last as usize) < layout.rows * layout.width
    {
        end(&mut bounds, (last as usize / layout.width + 1) * layout.width);
    }
    (bounds, longest)
}
