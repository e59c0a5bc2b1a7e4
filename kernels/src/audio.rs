//! Fingerprints of sound, and how far two of them are apart.
//!
//! ```text
//! samples ─► frames of 4096, a third apart ─► power of each frequency ─► 12 notes, over all octaves
//!         ─► smoothed over 5 frames, of length 1 ─► 16 filters over up to 16 rows, 2 bits each
//! ```
//! Ke, Hoiem & Sukthankar, "Computer Vision for Music Identification" (CVPR 2005); Lalinský, "How does Chromaprint work?"
//! (2011).

use std::f64::consts::{LN_2, TAU};

/// Samples a second of the sound that a fingerprint is made of.
pub const SAMPLE_RATE: u32 = 11_025;
/// Samples from one number of a fingerprint to the next: 0.124 s.
pub const STEP_SAMPLES: u32 = FRAME as u32 / 3;
const FRAME: usize = 4096;
const NOTES: usize = 12;
/// Hertz of the lowest and of the highest tone that count.
const TONES: [f64; 2] = [28.0, 3520.0];
/// Hertz of a note that begins an octave.
const OCTAVE: f64 = 440.0 / 16.0;
const SMOOTHING: [f64; 5] = [0.25, 0.75, 1.0, 0.75, 0.25];
/// Rows that are shorter than this are silence.
const SILENCE: f64 = 0.01;
/// Rows that a number is made of.
const ROWS: usize = 16;
/// Fewer numbers than this say nothing when they agree.
const OVERLAP_MIN: usize = 16;

/// A rectangle of rows and notes, of which some parts are held against the others.
struct Filter {
    parts: Parts,
    first_note: usize,
    notes: usize,
    rows: usize,
    /// What the comparison must reach for each of the values 1 to 3.
    steps: [f64; 3],
}

/// Which parts of a rectangle are held against the rest.
#[derive(Clone, Copy)]
enum Parts {
    /// All, against nothing.
    All,
    /// The higher notes.
    Higher,
    /// The later rows.
    Later,
    /// The higher notes before and the lower ones after the middle.
    Crossed,
    /// The notes of the middle third.
    MiddleNotes,
    /// The rows of the middle third.
    MiddleRows,
}

const fn filter(parts: Parts, first_note: usize, notes: usize, rows: usize, steps: [f64; 3]) -> Filter {
    Filter {
        parts,
        first_note,
        notes,
        rows,
        steps,
    }
}

/// The parameters of Chromaprint's algorithm 2, which were learned from music.
const FILTERS: [Filter; 16] = [
    filter(Parts::All, 4, 3, 15, [1.98215, 2.35817, 2.63523]),
    filter(Parts::MiddleNotes, 4, 6, 15, [-1.03809, -0.651211, -0.282167]),
    filter(Parts::Higher, 0, 4, 16, [-0.298702, 0.119262, 0.558497]),
    filter(Parts::Crossed, 8, 2, 12, [-0.105439, 0.0153946, 0.135898]),
    filter(Parts::Crossed, 4, 4, 8, [-0.142891, 0.0258736, 0.200632]),
    filter(Parts::MiddleNotes, 0, 3, 5, [-0.826319, -0.590612, -0.368214]),
    filter(Parts::Higher, 2, 2, 9, [-0.557409, -0.233035, 0.0534525]),
    filter(Parts::Later, 7, 3, 4, [-0.0646826, 0.00620476, 0.0784847]),
    filter(Parts::Later, 6, 2, 16, [-0.192387, -0.029699, 0.215855]),
    filter(Parts::Later, 1, 3, 2, [-0.0397818, -0.00568076, 0.0292026]),
    filter(Parts::MiddleRows, 10, 1, 15, [-0.53823, -0.369934, -0.190235]),
    filter(Parts::Crossed, 6, 2, 10, [-0.124877, 0.0296483, 0.139239]),
    filter(Parts::Later, 1, 1, 14, [-0.101475, 0.0225617, 0.231971]),
    filter(Parts::Crossed, 5, 6, 4, [-0.0799915, -0.00729616, 0.063262]),
    filter(Parts::Higher, 9, 2, 12, [-0.272556, 0.019424, 0.302559]),
    filter(Parts::Crossed, 4, 2, 14, [-0.164292, -0.0321188, 0.0846339]),
];

type Row = [f64; NOTES];

/// Computes the fingerprint of sound of one channel at [`SAMPLE_RATE`]: Chromaprint's algorithm 2, as `fpcalc -raw`
/// prints it. Each number is of the 2.7 s from its place on; there is none of less.
#[must_use]
pub fn fingerprint(samples: &[i16]) -> Vec<u32> {
    let spectrum = Spectrum::new();
    let starts = (0..).step_by(STEP_SAMPLES as usize);
    let frames = starts.map_while(|start| samples.get(start..start + FRAME));
    let notes: Vec<Row> = frames.map(|frame| spectrum.notes(frame)).collect();
    let rows: Vec<Row> = notes.windows(SMOOTHING.len()).map(smoothed).collect();
    rows.windows(ROWS).map(number).collect()
}

fn smoothed(frames: &[Row]) -> Row {
    let mut row = [0.0; NOTES];
    for (frame, weight) in frames.iter().zip(SMOOTHING) {
        row.iter_mut().zip(frame).for_each(|(sum, note)| *sum += note * weight);
    }
    let length = row.iter().map(|note| note * note).sum::<f64>().sqrt();
    match length < SILENCE {
        true => [0.0; NOTES],
        false => row.map(|note| note / length),
    }
}

fn number(rows: &[Row]) -> u32 {
    FILTERS.iter().fold(0, |bits, filter| {
        let value = filter.apply(rows);
        let reached = filter.steps.iter().filter(|step| value >= **step).count();
        // Neighbours differ in one bit.
        (bits << 2) | [0, 1, 3, 2][reached]
    })
}

impl Filter {
    fn apply(&self, rows: &[Row]) -> f64 {
        let (half_notes, half_rows) = (self.notes / 2, self.rows / 2);
        let (third_notes, third_rows) = (self.notes / 3, self.rows / 3);
        let (mut inside, mut outside) = (0.0, 0.0);
        for (time, row) in rows[..self.rows].iter().enumerate() {
            for (note, value) in row[self.first_note..][..self.notes].iter().enumerate() {
                let counts = match self.parts {
                    Parts::All => true,
                    Parts::Higher => note >= half_notes,
                    Parts::Later => time >= half_rows,
                    Parts::Crossed => (note >= half_notes) == (time < half_rows),
                    Parts::MiddleNotes => (third_notes..2 * third_notes).contains(&note),
                    Parts::MiddleRows => (third_rows..2 * third_rows).contains(&time),
                };
                *(if counts { &mut inside } else { &mut outside }) += value;
            }
        }
        (1.0 + inside).ln() - (1.0 + outside).ln()
    }
}

/// What frames are analysed with.
struct Spectrum {
    /// Hamming's window, over samples from -1 to 1.
    window: Vec<f64>,
    /// Roots of unity: the cosine and the negative sine of each part of a circle.
    roots: Vec<[f64; 2]>,
    /// Numbers of the frequencies that count, and of their notes.
    tones: Vec<(usize, usize)>,
}

impl Spectrum {
    fn new() -> Spectrum {
        let part = |at: usize, of: usize| at as f64 * TAU / of as f64;
        let window = |at: usize| (0.54 - 0.46 * part(at, FRAME - 1).cos()) / f64::from(i16::MAX);
        let root = |at: usize| [part(at, FRAME).cos(), -part(at, FRAME).sin()];
        let hertz = f64::from(SAMPLE_RATE) / FRAME as f64;
        let [lowest, highest] = TONES.map(|tone| (tone / hertz).round() as usize);
        let tone = |at: usize| {
            let octave = (at as f64 * hertz / OCTAVE).ln() / LN_2;
            (at, (NOTES as f64 * (octave - octave.floor())) as usize % NOTES)
        };
        Spectrum {
            window: (0..FRAME).map(window).collect(),
            roots: (0..FRAME / 2).map(root).collect(),
            tones: (lowest..highest).map(tone).collect(),
        }
    }

    /// Sums the power of all frequencies of a note.
    fn notes(&self, frame: &[i16]) -> Row {
        let mut values: Vec<[f64; 2]> = vec![[0.0; 2]; FRAME];
        // The transform below wants its input in the order of the reversed bits of the places.
        let shift = usize::BITS - FRAME.trailing_zeros();
        for (at, (sample, weight)) in frame.iter().zip(&self.window).enumerate() {
            values[at.reverse_bits() >> shift][0] = f64::from(*sample) * weight;
        }
        self.transform(&mut values);
        let mut notes = [0.0; NOTES];
        for (at, note) in &self.tones {
            let [real, imaginary] = values[*at];
            notes[*note] += real * real + imaginary * imaginary;
        }
        notes
    }

    /// Cooley & Tukey's fast transform, in place.
    fn transform(&self, values: &mut [[f64; 2]]) {
        let mut half = 1;
        while half < FRAME {
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                let roots = self.roots.iter().step_by(FRAME / 2 / half);
                for ((a, b), [cosine, sine]) in low.iter_mut().zip(high).zip(roots) {
                    let turned = [b[0] * cosine - b[1] * sine, b[0] * sine + b[1] * cosine];
                    *b = [a[0] - turned[0], a[1] - turned[1]];
                    *a = [a[0] + turned[0], a[1] + turned[1]];
                }
            }
            half *= 2;
        }
    }
}

/// Finds the least share of bits in which two fingerprints differ, when one is moved against the other by up to
/// `window` numbers: about 0.5 for unrelated sound, and below 0.15 for copies, as a rule.
///
/// A place counts where they overlap in half of the shorter one and in at least 16 numbers. `None` where there is no
/// such place.
#[must_use]
pub fn bit_error_rate(a: &[u32], b: &[u32], window: usize) -> Option<f64> {
    let enough = (a.len().min(b.len()) / 2).max(OVERLAP_MIN);
    let moved = |a: &[u32], b: &[u32], by: usize| {
        let overlap = a.len().saturating_sub(by).min(b.len());
        (overlap >= enough).then(|| {
            let pairs = a[by..].iter().zip(b);
            let bits: u64 = pairs.map(|(a, b)| u64::from((a ^ b).count_ones())).sum();
            bits as f64 / (32 * overlap) as f64
        })
    };
    (0..=window)
        .flat_map(|by| [moved(a, b, by), moved(b, a, by)])
        .flatten()
        .min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    /// A tune: notes of a third of a second, chosen by a seed.
    fn tune(seed: u64, seconds: usize, noise: i16) -> Vec<i16> {
        let note = SAMPLE_RATE as usize / 3;
        let pitch = |at: usize| xxh3_64(&[seed, (at / note) as u64].map(u64::to_le_bytes).concat()) % 24;
        (0..seconds * SAMPLE_RATE as usize)
            .map(|at| {
                let hertz = 220.0 * 2f64.powf(pitch(at) as f64 / 12.0);
                let tone = (at as f64 / f64::from(SAMPLE_RATE) * hertz * TAU).sin() * 9000.0;
                let random = xxh3_64(&at.to_le_bytes()) as i16;
                tone as i16 + (i32::from(random) * i32::from(noise) / 32_768) as i16
            })
            .collect()
    }

    #[test]
    fn copies_are_near_and_others_far() {
        let original = fingerprint(&tune(1, 30, 0));
        let seconds = original.len() as f64 * f64::from(STEP_SAMPLES) / f64::from(SAMPLE_RATE);
        assert!((25.0..30.0).contains(&seconds), "{seconds} s");
        assert_eq!(bit_error_rate(&original, &original, 0), Some(0.0));
        let noisy = fingerprint(&tune(1, 30, 900));
        let near = bit_error_rate(&original, &noisy, 10).unwrap();
        assert!(near > 0.0 && near < 0.15, "{near}");
        // Four seconds are cut off the beginning: found when it is moved by 32 numbers, and not at once.
        let late = fingerprint(&tune(1, 30, 0)[4 * SAMPLE_RATE as usize..]);
        let found = bit_error_rate(&original, &late, 40).unwrap();
        assert!(
            found < 0.15 && found < bit_error_rate(&original, &late, 8).unwrap() - 0.15,
            "{found}"
        );
        let other = bit_error_rate(&original, &fingerprint(&tune(2, 30, 0)), 120).unwrap();
        assert!(other > 0.3, "{other}");
    }

    #[test]
    fn a_tone_is_one_note() {
        let spectrum = Spectrum::new();
        for (hertz, note) in [(452.9, 0), (905.8, 0), (479.8, 1), (538.6, 3), (855.0, 11)] {
            let tone = |at: usize| ((at as f64 / f64::from(SAMPLE_RATE) * hertz * TAU).sin() * 20_000.0) as i16;
            let notes = spectrum.notes(&(0..FRAME).map(tone).collect::<Vec<_>>());
            let power: f64 = notes.iter().sum();
            assert!(notes[note] > 0.9 * power, "{hertz} Hz: {notes:?}");
        }
    }

    #[test]
    fn too_little_sound_has_no_distance() {
        let original = fingerprint(&tune(1, 30, 0));
        assert!(fingerprint(&[]).is_empty() && fingerprint(&tune(1, 1, 0)).is_empty());
        assert!(bit_error_rate(&original, &[], 10).is_none());
        assert!(bit_error_rate(&original, &original[..15], 10).is_none());
        assert_eq!(bit_error_rate(&original, &original[..16], 10), Some(0.0));
    }

    proptest! {
        #[test]
        fn the_distance_is_the_same_both_ways_and_least(
            a in prop::collection::vec(any::<u32>(), 0..60), b in prop::collection::vec(any::<u32>(), 0..60),
            window in 0usize..70,
        ) {
            let found = bit_error_rate(&a, &b, window);
            prop_assert_eq!(found, bit_error_rate(&b, &a, window));
            let enough = (a.len().min(b.len()) / 2).max(16) as i64;
            let mut least: Option<f64> = None;
            for by in -(window as i64)..=window as i64 {
                let pairs: Vec<(u32, u32)> = (0..a.len() as i64)
                    .filter(|at| (0..b.len() as i64).contains(&(at - by)))
                    .map(|at| (a[at as usize], b[(at - by) as usize]))
                    .collect();
                if pairs.len() as i64 >= enough {
                    let bits: u32 = pairs.iter().map(|(a, b)| (a ^ b).count_ones()).sum();
                    let rate = f64::from(bits) / (32 * pairs.len()) as f64;
                    least = Some(least.map_or(rate, |least| least.min(rate)));
                }
            }
            prop_assert_eq!(found, least);
        }
    }
}
