//! Disjoint sets over `0..n`, and the connected components of a graph.

/// Disjoint sets whose representative is always the smallest member.
///
/// The larger root is linked below the smaller one and paths are halved, so a sequence of `m` operations takes
/// `O(m log n)` and the result does not depend on the order of the unions (Tarjan & van Leeuwen 1984, "linking by
/// index with halving").
#[derive(Debug, Clone)]
pub struct UnionFind {
    parent: Vec<u32>,
}

impl UnionFind {
    /// Makes `n` sets of one member each.
    ///
    /// # Panics
    /// If `n` is more than 2³² - 1: members are 32-bit.
    #[must_use]
    pub fn new(n: usize) -> Self {
        let n = u32::try_from(n).expect("a union-find holds at most 2^32 - 1 members");
        Self {
            parent: (0..n).collect(),
        }
    }

    /// Number of members (not of sets).
    #[must_use]
    pub fn len(&self) -> usize {
        self.parent.len()
    }

    /// Says whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parent.is_empty()
    }

    /// Adds one set with one new member, and returns that member.
    ///
    /// # Panics
    /// If there are 2³² - 1 members already.
    pub fn push(&mut self) -> u32 {
        let id = u32::try_from(self.parent.len()).expect("a union-find holds at most 2^32 - 1 members");
        self.parent.push(id);
        id
    }

    /// Returns the smallest member of the set that `x` is in.
    ///
    /// # Panics
    /// If `x` is not a member.
    pub fn find(&mut self, mut x: u32) -> u32 {
        loop {
            let parent = self.parent[x as usize];
            if parent == x {
                return x;
            }
            let grandparent = self.parent[parent as usize];
            self.parent[x as usize] = grandparent;
            x = grandparent;
        }
    }

    /// Joins the sets of `a` and `b`; returns whether they were two.
    ///
    /// # Panics
    /// If `a` or `b` is not a member.
    pub fn union(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.find(a), self.find(b));
        self.parent[a.max(b) as usize] = a.min(b);
        a != b
    }

    /// Returns, for every member, the smallest member of its set.
    #[must_use]
    pub fn into_components(mut self) -> Vec<u32> {
        // A parent is never larger than its child, so one pass upwards sees every parent already resolved.
        for x in 0..self.parent.len() {
            self.parent[x] = self.parent[self.parent[x] as usize];
        }
        self.parent
    }
}

/// Returns the connected component of each of the nodes `0..n`, named by its smallest node.
///
/// The result depends neither on the order of the edges nor on their direction.
///
/// # Panics
/// If an edge names a node that is not in `0..n`.
#[must_use]
pub fn components(edges: &[(u32, u32)], n: usize) -> Vec<u32> {
    let mut sets = UnionFind::new(n);
    for &(a, b) in edges {
        sets.union(a, b);
    }
    sets.into_components()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Labels spread along edges until nothing changes.
    fn naive(edges: &[(u32, u32)], n: usize) -> Vec<u32> {
        let mut label: Vec<u32> = (0..n as u32).collect();
        loop {
            let before = label.clone();
            for &(a, b) in edges {
                let low = label[a as usize].min(label[b as usize]);
                label[a as usize] = low;
                label[b as usize] = low;
            }
            if before == label {
                return label;
            }
        }
    }

    proptest! {
        #[test]
        fn components_are_those_of_label_spreading(n in 1usize..60, raw in prop::collection::vec((any::<u32>(), any::<u32>()), 0..80)) {
            let edges: Vec<_> = raw.iter().map(|(a, b)| (a % n as u32, b % n as u32)).collect();
            let got = components(&edges, n);
            prop_assert_eq!(&got, &naive(&edges, n));
            let reversed: Vec<_> = edges.iter().rev().map(|(a, b)| (*b, *a)).collect();
            prop_assert_eq!(got, components(&reversed, n));
        }
    }

    #[test]
    fn a_long_chain_given_from_its_end_is_one_component() {
        let edges: Vec<_> = (0..99_999u32).rev().map(|i| (i + 1, i)).collect();
        assert!(components(&edges, 100_000).iter().all(|c| *c == 0));
    }

    #[test]
    fn union_tells_whether_it_joined() {
        let mut sets = UnionFind::new(2);
        let third = sets.push();
        assert!(sets.union(third, 1));
        assert!(!sets.union(1, third));
        assert_eq!((sets.find(2), sets.len()), (1, 3));
    }
}
