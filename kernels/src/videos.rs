//! Videos that are alike, by the hashes of their frames (vPDQ, of ThreatExchange).

use crate::duplicate_links::{Edge, enough_edges};
use crate::hamming::HammingIndex;
use crate::pdq::{PdqHash, pdq_distance};

/// How much two videos share, by their frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameShares {
    /// The share of the first one's frames that are near a frame of the second.
    pub a_in_b: f64,
    /// The share of the second one's frames that are near a frame of the first.
    pub b_in_a: f64,
}

impl FrameShares {
    /// The lesser of both: a clip is all in the film, little of the film is in the clip.
    #[must_use]
    pub fn least(self) -> f64 {
        self.a_in_b.min(self.b_in_a)
    }
}

/// Compares all frames of `a` with all of `b`; `None` where one has none.
#[must_use]
pub fn frame_shares(a: &[PdqHash], b: &[PdqHash], distance_max: u32) -> Option<FrameShares> {
    let share = |of: &[PdqHash], among: &[PdqHash]| {
        let near = |hash: &&PdqHash| among.iter().any(|other| pdq_distance(hash, other) <= distance_max);
        of.iter().filter(near).count() as f64 / of.len() as f64
    };
    (!a.is_empty() && !b.is_empty()).then(|| FrameShares {
        a_in_b: share(a, b),
        b_in_a: share(b, a),
    })
}

/// Finds pairs of videos that share at least `share_min` of both one's frames ([`FrameShares::least`]) and are enough for
/// their clusters ([`enough_edges`]). Videos are looked up through an index over all frames: 96 bytes for each that is
/// different from the others of its video, and 4 MiB.
///
/// # Panics
/// As [`HammingIndex::near`] and [`HammingIndex::new`].
#[must_use]
pub fn video_edges(videos: &[impl AsRef<[PdqHash]>], distance_max: u32, share_min: f64) -> Vec<Edge> {
    let videos: Vec<Vec<(PdqHash, usize)>> = videos.iter().map(|video| counted(video.as_ref())).collect();
    let frames = |video: &[(PdqHash, usize)]| video.iter().map(|(_, count)| count).sum::<usize>() as f64;
    let index = HammingIndex::new(videos.iter().flatten().map(|(hash, _)| *hash));
    // Of each number of the index: the video, and how often the frame is in it.
    let owners: Vec<(u32, usize)> = (0u32..)
        .zip(&videos)
        .flat_map(|(number, video)| video.iter().map(move |(_, count)| (number, *count)))
        .collect();
    // Videos before this one that a frame is near to, with the place of the frame; their frames that are near.
    let mut ours: Vec<(u32, usize)> = Vec::new();
    let mut theirs: Vec<u32> = Vec::new();
    enough_edges(videos.len(), |b, near| {
        let video = &videos[b as usize];
        ours.clear();
        theirs.clear();
        for (place, (hash, _)) in video.iter().enumerate() {
            index.near(hash, distance_max, |number, _| {
                let (a, _) = owners[number as usize];
                if a < b {
                    ours.push((a, place));
                    theirs.push(number);
                }
            });
        }
        ours.sort_unstable();
        ours.dedup();
        theirs.sort_unstable();
        theirs.dedup();
        // Both are in the order of the videos, and of the same ones.
        let of_theirs = theirs.chunk_by(|x, y| owners[*x as usize].0 == owners[*y as usize].0);
        for (ours, theirs) in ours.chunk_by(|x, y| x.0 == y.0).zip(of_theirs) {
            let a = ours[0].0;
            let in_a: usize = ours.iter().map(|(_, place)| video[*place].1).sum();
            let in_b: usize = theirs.iter().map(|number| owners[*number as usize].1).sum();
            let shares = FrameShares {
                a_in_b: in_b as f64 / frames(&videos[a as usize]),
                b_in_a: in_a as f64 / frames(video),
            };
            if shares.least() >= share_min {
                near.push((shares.least(), a));
            }
        }
    })
}

/// Different hashes, in order, with how often each is there.
fn counted(video: &[PdqHash]) -> Vec<(PdqHash, usize)> {
    let mut hashes = video.to_vec();
    hashes.sort_unstable();
    hashes
        .chunk_by(|x, y| x == y)
        .map(|same| (same[0], same.len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::duplicate_links::enough_for_clusters;

    /// A frame: a scene, and bits of it that are flipped.
    fn frame((scene, flips): &(u8, Vec<u8>)) -> PdqHash {
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = scene.wrapping_mul(73).rotate_left(at as u32 % 8) ^ (at as u8).wrapping_mul(*scene);
        }
        flips
            .iter()
            .for_each(|bit| hash[usize::from(bit / 8)] ^= 1 << (bit % 8));
        hash
    }

    proptest! {
        #[test]
        fn the_edges_are_those_of_brute_force(
            videos in prop::collection::vec(
                prop::collection::vec((0u8..5, prop::collection::vec(any::<u8>(), 0..3)), 1..6), 1..10),
            share_min in 0.05f64..1.0,
        ) {
            let videos: Vec<Vec<PdqHash>> = videos.iter().map(|video| video.iter().map(frame).collect()).collect();
            let n = videos.len() as u32;
            let all: Vec<Edge> = (0..n)
                .flat_map(|b| (0..b).map(move |a| (a, b)))
                .filter_map(|(a, b)| {
                    let shares = frame_shares(&videos[a as usize], &videos[b as usize], 4)?;
                    (shares.least() >= share_min).then_some(Edge { a, b, similarity: shares.least() })
                })
                .collect();
            let edges = video_edges(&videos, 4, share_min);
            enough_for_clusters(&edges, &all, n as usize);
        }
    }

    #[test]
    fn a_clip_is_in_its_film_and_not_the_film_in_the_clip() {
        let film: Vec<PdqHash> = (0..10).map(|scene| frame(&(scene * 7 + 1, Vec::new()))).collect();
        let shares = frame_shares(&film[3..5], &film, 4).unwrap();
        assert_eq!((shares.a_in_b, shares.b_in_a, shares.least()), (1.0, 0.2, 0.2));
        assert!(frame_shares(&film, &[], 31).is_none());
        // How often a frame is there counts.
        let still = [film[0], film[0], film[0], film[1]];
        assert_eq!(frame_shares(&still, &film[..1], 4).unwrap().a_in_b, 0.75);
        assert_eq!(video_edges(&[&still[..], &film[..1]], 4, 0.75).len(), 1);
        assert!(video_edges(&[&still[..], &film[..1]], 4, 0.76).is_empty());
    }
}
