//! The instruction sets that the kernels are compiled for, and the choice at run time.

use std::ffi::OsStr;
use std::sync::OnceLock;

use super::Vector;
use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::x86::Avx2;
#[cfg(target_arch = "x86_64")]
use super::x86_512::Avx512;

/// The environment variable that limits the choice.
pub(crate) const VARIABLE: &str = "PV_SIMD";

/// An instruction set that this processor has. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Plain Rust; on ARM, the compiler makes NEON of it.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    /// With AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512<true>),
    /// With AVX-512 VNNI and BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512<true, true>),
}

impl Level {
    /// Every one that this processor has, the best last.
    pub(crate) fn all() -> Vec<Self> {
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(Avx2::new().map(Self::Avx2));
            levels.extend(Avx512::<false>::new().map(Self::Avx512));
            levels.extend(Avx512::<true>::new().map(Self::Avx512Vnni));
            levels.extend(Avx512::<true, true>::new().map(Self::Avx512Bf16));
        }
        levels
    }

    /// Whether it is at most the one with this name; `None` for an unknown name.
    fn is_within(self, name: &str) -> Option<bool> {
        match name {
            "portable" => Some(self == Self::Portable),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Some(matches!(self, Self::Portable | Self::Avx2(_))),
            #[cfg(not(target_arch = "x86_64"))]
            "avx2" => Some(true),
            "avx512" => Some(true),
            _ => None,
        }
    }

    /// The best one within `limit`, and whether `limit` is known; the best one of all if it is not.
    pub(crate) fn best(limit: Option<&OsStr>) -> (Self, bool) {
        let within = |level: Self| limit.map_or(Some(true), |limit| level.is_within(limit.to_str()?));
        let known = within(Self::Portable).is_some();
        let best = Self::all().into_iter().rfind(|&level| within(level).unwrap_or(true));
        (best.unwrap_or(Self::Portable), known)
    }

    /// The one that the kernels use. Processor and environment are read once.
    #[inline]
    pub(crate) fn chosen() -> Self {
        static CHOSEN: OnceLock<Level> = OnceLock::new();
        #[cfg(test)]
        if let Some(level) = forced::level() {
            return level;
        }
        *CHOSEN.get_or_init(|| Self::best(std::env::var_os(VARIABLE).as_deref()).0)
    }

    /// Runs `op` in a function that is compiled for this instruction set.
    #[inline]
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        match self {
            Self::Portable => op.run(Portable),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(vector) => vector.run(op),
            // Without VNNI, AVX2 has all that products of integers need.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(vector) if O::INTEGERS => vector.avx2().run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(vector) => vector.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(vector) if O::INTEGERS => vector.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(vector) => vector.plain().run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(vector) if O::PAIRS => vector.pairs().run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(vector) if O::INTEGERS => vector.integers().run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(vector) => vector.plain().run(op),
        }
    }

    /// Whether [`Vector::pairs_mul_add`] takes less time than two of [`Vector::mul_add`].
    pub(crate) fn has_fast_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Self::Avx512Bf16(_)) && !is_intel();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

/// Whether the processor is one of Intel's, which take longer for a product of pairs in bf16 than for its parts in `f32`
/// (measured: 1.7 times as long for 512 rows).
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    static INTEL: OnceLock<bool> = OnceLock::new();
    *INTEL.get_or_init(|| {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    })
}

/// A computation over vectors. `run` and what it calls must be `#[inline(always)]`.
pub(crate) trait Op {
    type Output;

    /// Whether there are products of integers: only these are compiled for VNNI.
    const INTEGERS: bool = false;

    /// Whether there are products of pairs in bf16: only these are compiled for BF16.
    const PAIRS: bool = false;

    fn run<V: Vector>(self, v: V) -> Self::Output;
}

/// Runs `op` with the instruction set that the kernels use.
#[inline]
pub(crate) fn dispatch<O: Op>(op: O) -> O::Output {
    Level::chosen().run(op)
}

/// Another choice for a test. It holds in every thread, so that tasks of a pool have it too; tests beside it compute the
/// same bits with it.
#[cfg(test)]
pub(crate) mod forced {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Level;

    static TURN: Mutex<()> = Mutex::new(());
    /// One more than the index in [`Level::all`].
    static FORCED: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn level() -> Option<Level> {
        let index = FORCED.load(Ordering::SeqCst).checked_sub(1)?;
        Level::all().get(index).copied()
    }

    /// The results of `body` with every instruction set that this processor has.
    pub(crate) fn at_each<R>(mut body: impl FnMut(Level) -> R) -> Vec<(Level, R)> {
        let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let each = |(index, level)| {
            FORCED.store(index + 1, Ordering::SeqCst);
            let result = body(level);
            FORCED.store(0, Ordering::SeqCst);
            (level, result)
        };
        Level::all().into_iter().enumerate().map(each).collect()
    }
}
