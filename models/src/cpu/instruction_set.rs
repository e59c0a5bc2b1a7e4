//! One body of code, compiled for the instruction sets that a machine may have, chosen when it runs.

use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets that the loops are compiled for, from the poorest to the richest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum InstructionSet {
    /// What the target always has.
    Portable = 1,
    /// 256-bit vectors with fused multiply-add.
    Avx2 = 2,
    /// 512-bit vectors.
    Avx512 = 3,
}

/// The set in force, 0 before the machine was asked.
static IN_FORCE: AtomicU8 = AtomicU8::new(0);

impl InstructionSet {
    /// The richest set that this machine has.
    pub(crate) fn of_this_machine() -> Self {
        match IN_FORCE.load(Ordering::Relaxed) {
            1 => Self::Portable,
            2 => Self::Avx2,
            3 => Self::Avx512,
            _ => {
                let found = Self::detect();
                IN_FORCE.store(found as u8, Ordering::Relaxed);
                found
            }
        }
    }

    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw");
            match (avx2, avx512) {
                (true, true) => return Self::Avx512,
                (true, false) => return Self::Avx2,
                (false, _) => {}
            }
        }
        Self::Portable
    }

    /// Runs `work` as a machine with no more than `self` would. Other threads may run along: no bit depends on it.
    #[cfg(test)]
    pub(crate) fn limit<T>(self, work: impl FnOnce() -> T) -> T {
        let found = Self::detect();
        IN_FORCE.store(found.min(self) as u8, Ordering::Relaxed);
        let result = work();
        IN_FORCE.store(found as u8, Ordering::Relaxed);
        result
    }
}

/// Defines a function whose body is compiled once for each instruction set.
///
/// What the body calls must be `#[inline(always)]`, or it is compiled for the poorest set.
macro_rules! for_each_instruction_set {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "calls the version for the instruction set that the machine has")
        )]
        $vis fn $name($($arg: $type),*) {
            #[inline(always)]
            fn body($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                use $crate::cpu::instruction_set::InstructionSet;

                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512($($arg: $type),*) {
                    body($($arg),*)
                }

                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) {
                    body($($arg),*)
                }

                match InstructionSet::of_this_machine() {
                    // SAFETY: `InstructionSet` found that the processor has these features.
                    InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    InstructionSet::Portable => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use for_each_instruction_set;
