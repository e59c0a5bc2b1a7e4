//! From verified pairs to clusters: who is the representative, and which pair links a member to it.

use crate::union_find::UnionFind;

/// Two nodes that were found similar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// One node.
    pub a: u32,
    /// The other.
    pub b: u32,
    /// Their similarity.
    pub similarity: f64,
}

/// What a cluster of duplicates is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterShape {
    /// Everything that is connected, through however many pairs.
    Component,
    /// A representative and what is similar to it directly.
    Star,
}

/// Where a node of a cluster belongs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// The smallest node of the cluster: its representative.
    pub representative: u32,
    /// The neighbour through which the node hangs together with the representative; itself for the representative.
    pub linked_to: u32,
}

/// Sorts edges by similarity, the highest first, then by nodes, and keeps those that join what no earlier one has
/// joined: a spanning forest of the greatest similarity (Kruskal 1956), the same for any order of the edges.
///
/// Forests of parts can be put together: the forest of all edges is that of the parts' forests.
///
/// # Panics
/// If an edge names a node that is not in `0..nodes`.
pub fn spanning_forest(edges: &mut Vec<Edge>, nodes: usize) {
    edges.sort_unstable_by(|x, y| {
        let by_nodes = (x.a.min(x.b), x.a.max(x.b)).cmp(&(y.a.min(y.b), y.a.max(y.b)));
        y.similarity.total_cmp(&x.similarity).then(by_nodes)
    });
    let mut sets = UnionFind::new(nodes);
    edges.retain(|edge| sets.union(edge.a, edge.b));
}

/// Chooses pairs that are enough for the clusters of all pairs: each node with its first and its nearest neighbour, one
/// of every component that it joins, and every neighbour that has no smaller neighbour itself (the centres of stars).
///
/// `near(b, found)` gives the similarities and numbers of all nodes before `b` that are similar to it, in any order.
#[must_use]
pub fn enough_edges(nodes: usize, mut near: impl FnMut(u32, &mut Vec<(f64, u32)>)) -> Vec<Edge> {
    let mut sets = UnionFind::new(nodes);
    let mut centre = vec![true; nodes];
    let mut edges = Vec::new();
    let mut found: Vec<(f64, u32)> = Vec::new();
    for (b, is_centre) in (0u32..).zip(0..nodes) {
        found.clear();
        near(b, &mut found);
        found.sort_unstable_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
        let first = found.iter().map(|(_, a)| *a).min();
        for (place, (similarity, a)) in found.iter().enumerate() {
            let joins = sets.union(*a, b);
            if place == 0 || joins || Some(*a) == first || centre[*a as usize] {
                let similarity = *similarity;
                edges.push(Edge { a: *a, b, similarity });
            }
        }
        centre[is_centre] = !found.iter().any(|(_, a)| centre[*a as usize]);
    }
    edges
}

/// Puts the nodes `0..nodes` into clusters. The smaller a node's number, the rather it is a representative.
///
/// - *Component*: connected components; `linked_to` is the next node on the way to the representative in the spanning
///   forest of the greatest similarity.
/// - *Star*: in the order of their numbers, each node that is in no cluster becomes a representative and takes all its
///   neighbours that are in none.
///
/// # Panics
/// If an edge names a node that is not in `0..nodes`.
#[must_use]
pub fn duplicate_links(mut edges: Vec<Edge>, nodes: usize, shape: ClusterShape) -> Vec<Link> {
    if shape == ClusterShape::Component {
        spanning_forest(&mut edges, nodes);
    }
    let neighbours = Neighbours::of(&edges, nodes);
    let mut links: Vec<Option<Link>> = vec![None; nodes];
    let mut queue = Vec::new();
    for representative in 0..nodes as u32 {
        if links[representative as usize].is_some() {
            continue;
        }
        links[representative as usize] = Some(Link {
            representative,
            linked_to: representative,
        });
        queue.push(representative);
        while let Some(node) = queue.pop() {
            for neighbour in neighbours.of_node(node) {
                let link = &mut links[*neighbour as usize];
                if link.is_none() {
                    *link = Some(Link {
                        representative,
                        linked_to: node,
                    });
                    if shape == ClusterShape::Component {
                        queue.push(*neighbour);
                    }
                }
            }
        }
    }
    links.into_iter().flatten().collect()
}

/// All neighbours of all nodes, one list after the other.
struct Neighbours {
    starts: Vec<usize>,
    nodes: Vec<u32>,
}

impl Neighbours {
    fn of(edges: &[Edge], nodes: usize) -> Self {
        let mut starts = vec![0; nodes + 1];
        for edge in edges {
            starts[edge.a as usize + 1] += 1;
            starts[edge.b as usize + 1] += 1;
        }
        for i in 0..nodes {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut list = vec![0; 2 * edges.len()];
        for edge in edges {
            for (node, other) in [(edge.a, edge.b), (edge.b, edge.a)] {
                list[next[node as usize]] = other;
                next[node as usize] += 1;
            }
        }
        Self { starts, nodes: list }
    }

    fn of_node(&self, node: u32) -> &[u32] {
        &self.nodes[self.starts[node as usize]..self.starts[node as usize + 1]]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::union_find::components;

    fn edges(raw: &[(u32, u32, u8)], nodes: u32) -> Vec<Edge> {
        raw.iter()
            .map(|(a, b, similarity)| Edge {
                a: a % nodes,
                b: b % nodes,
                similarity: f64::from(similarity % 4) / 4.0,
            })
            .filter(|edge| edge.a != edge.b)
            .collect()
    }

    proptest! {
        #[test]
        fn components_are_those_of_union_find_and_links_lead_home(
            nodes in 1u32..40,
            raw in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u8>()), 0..80),
        ) {
            let list = edges(&raw, nodes);
            let links = duplicate_links(list.clone(), nodes as usize, ClusterShape::Component);
            let plain: Vec<(u32, u32)> = list.iter().map(|e| (e.a, e.b)).collect();
            let want = components(&plain, nodes as usize);
            for node in 0..nodes {
                let link = links[node as usize];
                prop_assert_eq!(link.representative, want[node as usize]);
                // Every step is along an edge, and arrives.
                let (mut at, mut steps) = (node, 0);
                while at != link.representative {
                    let next = links[at as usize].linked_to;
                    prop_assert!(plain.contains(&(at, next)) || plain.contains(&(next, at)));
                    at = next;
                    steps += 1;
                    prop_assert!(steps <= nodes);
                }
            }
            let mut reversed: Vec<Edge> = list.iter().rev().map(|e| Edge { a: e.b, b: e.a, ..*e }).collect();
            prop_assert_eq!(&duplicate_links(reversed.clone(), nodes as usize, ClusterShape::Component), &links);
            // The forest of the forests of two parts is that of the whole.
            let half = reversed.len() / 2;
            let mut rest = reversed.split_off(half);
            spanning_forest(&mut reversed, nodes as usize);
            spanning_forest(&mut rest, nodes as usize);
            reversed.extend(rest);
            prop_assert_eq!(duplicate_links(reversed, nodes as usize, ClusterShape::Component), links);
        }

        #[test]
        fn a_star_has_no_chains_and_no_free_neighbour(
            nodes in 1u32..40,
            raw in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u8>()), 0..80),
        ) {
            let list = edges(&raw, nodes);
            let links = duplicate_links(list.clone(), nodes as usize, ClusterShape::Star);
            let touch = |a: u32, b: u32| list.iter().any(|e| (e.a, e.b) == (a, b) || (e.b, e.a) == (a, b));
            let centres: Vec<u32> = (0..nodes).filter(|n| links[*n as usize].representative == *n).collect();
            for node in 0..nodes {
                let link = links[node as usize];
                prop_assert_eq!(link.linked_to, link.representative);
                prop_assert!(link.representative <= node);
                prop_assert!(link.representative == node || touch(node, link.representative));
                // It went to the first centre that it touches.
                let first = centres.iter().find(|c| **c == node || (**c < node && touch(**c, node)));
                prop_assert_eq!(first, Some(&link.representative));
            }
        }
    }

    #[test]
    fn the_strongest_way_is_taken() {
        let list = [(0, 1, 0.8), (0, 2, 0.9), (1, 2, 0.95)].map(|(a, b, similarity)| Edge { a, b, similarity });
        let links = duplicate_links(list.to_vec(), 3, ClusterShape::Component);
        assert_eq!(links.iter().map(|l| l.linked_to).collect::<Vec<_>>(), [0, 2, 0]);
    }
}
