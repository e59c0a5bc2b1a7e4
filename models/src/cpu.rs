//! Arithmetic on the processor: every result has the same bits on every machine and in every batch.
//!
//! Two rules give that: a sum over the inner dimension of a product is one chain of fused multiply-adds in index order,
//! and every other sum goes through sixteen lanes that are folded in a fixed order. Neither depends on how many rows
//! come together, on the instruction set, or on the number of threads.

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod gemm;
pub(crate) mod instruction_set;
pub(crate) mod microkernel;
