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
/// The nodes `0..settled` count as joined from the beginning, so no tree holds two of them: every other node hangs below
/// the settled one that the strongest edges lead to.
///
/// Forests of parts can be put together: the forest of all edges is that of the parts' forests.
///
/// # Panics
/// If an edge names a node that is not in `0..nodes`, or `settled` is more than `nodes`.
pub fn spanning_forest(edges: &mut Vec<Edge>, nodes: usize, settled: usize) {
    edges.sort_unstable_by(stronger);
    let mut sets = UnionFind::new(nodes);
    (1..settled as u32).for_each(|node| {
        sets.union(0, node);
    });
    edges.retain(|edge| sets.union(edge.a, edge.b));
}

/// The greater similarity first, then the smaller nodes.
fn stronger(x: &Edge, y: &Edge) -> std::cmp::Ordering {
    let by_nodes = (x.a.min(x.b), x.a.max(x.b)).cmp(&(y.a.min(y.b), y.a.max(y.b)));
    y.similarity.total_cmp(&x.similarity).then(by_nodes)
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
/// The nodes `0..settled` are in clusters of an earlier time, which never become one: each is the representative of what
/// hangs below it. Of several settled ones a node goes to the one that the strongest edges lead to.
///
/// # Panics
/// If an edge names a node that is not in `0..nodes`, or `settled` is more than `nodes`.
#[must_use]
pub fn duplicate_links(mut edges: Vec<Edge>, nodes: usize, settled: usize, shape: ClusterShape) -> Vec<Link> {
    match shape {
        ClusterShape::Component => spanning_forest(&mut edges, nodes, settled),
        // The order decides only which of several settled neighbours a node goes to.
        ClusterShape::Star => edges.sort_unstable_by(stronger),
    }
    let neighbours = Neighbours::of(&edges, nodes);
    let mut links: Vec<Option<Link>> = vec![None; nodes];
    if shape == ClusterShape::Star {
        take_nearest_settled(&edges, settled, &mut links);
    }
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

/// Gives each node that has settled neighbours to the most similar one; the strongest edges come first.
fn take_nearest_settled(edges: &[Edge], settled: usize, links: &mut [Option<Link>]) {
    for edge in edges {
        let (a, b) = (edge.a.min(edge.b), edge.a.max(edge.b));
        if (a as usize) < settled && (b as usize) >= settled {
            links[b as usize].get_or_insert(Link {
                representative: a,
                linked_to: a,
            });
        }
    }
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

/// Checks that edges that were found are among `all`, and that clusters come out of them as of all.
#[cfg(test)]
pub(crate) fn enough_for_clusters(edges: &[Edge], all: &[Edge], nodes: usize) {
    assert!(edges.iter().all(|edge| all.contains(edge)));
    for shape in [ClusterShape::Component, ClusterShape::Star] {
        let of = |edges: &[Edge]| -> Vec<u32> {
            let links = duplicate_links(edges.to_vec(), nodes, 0, shape);
            links.iter().map(|link| link.representative).collect()
        };
        assert_eq!(of(edges), of(all));
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
            let links = duplicate_links(list.clone(), nodes as usize, 0, ClusterShape::Component);
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
            prop_assert_eq!(&duplicate_links(reversed.clone(), nodes as usize, 0, ClusterShape::Component), &links);
            // The forest of the forests of two parts is that of the whole.
            let half = reversed.len() / 2;
            let mut rest = reversed.split_off(half);
            spanning_forest(&mut reversed, nodes as usize, 0);
            spanning_forest(&mut rest, nodes as usize, 0);
            reversed.extend(rest);
            prop_assert_eq!(duplicate_links(reversed, nodes as usize, 0, ClusterShape::Component), links);
        }

        #[test]
        fn a_star_has_no_chains_and_no_free_neighbour(
            nodes in 1u32..40,
            raw in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u8>()), 0..80),
        ) {
            let list = edges(&raw, nodes);
            let links = duplicate_links(list.clone(), nodes as usize, 0, ClusterShape::Star);
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

    proptest! {
        #[test]
        fn settled_nodes_stay_apart_and_draw_by_the_strongest_edges(
            nodes in 1u32..30,
            settled in 0u32..12,
            raw in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u8>()), 0..60),
        ) {
            let settled = settled.min(nodes);
            let old = |node: u32| node < settled;
            let list: Vec<Edge> = edges(&raw, nodes).into_iter().filter(|e| !(old(e.a) && old(e.b))).collect();
            let links = duplicate_links(list.clone(), nodes as usize, settled as usize, ClusterShape::Component);
            // One edge after the other joins two clusters, unless both are settled.
            let mut cluster: Vec<u32> = (0..nodes).collect();
            let mut ordered = list.clone();
            ordered.sort_by(stronger);
            for edge in &ordered {
                let (x, y) = (cluster[edge.a as usize], cluster[edge.b as usize]);
                let (low, high) = (x.min(y), x.max(y));
                if !(old(low) && old(high)) {
                    cluster.iter_mut().filter(|c| **c == high).for_each(|c| *c = low);
                }
            }
            for node in 0..nodes {
                prop_assert_eq!(links[node as usize].representative, cluster[node as usize]);
            }
            let mut parts = list.clone();
            let mut rest = parts.split_off(list.len() / 2);
            spanning_forest(&mut parts, nodes as usize, settled as usize);
            spanning_forest(&mut rest, nodes as usize, settled as usize);
            parts.extend(rest);
            prop_assert_eq!(&duplicate_links(parts, nodes as usize, settled as usize, ClusterShape::Component), &links);

            let stars = duplicate_links(list.clone(), nodes as usize, settled as usize, ClusterShape::Star);
            for node in 0..nodes {
                let nearest = ordered.iter().find_map(|e| match (e.a.min(e.b), e.a.max(e.b)) {
                    (a, b) if b == node && old(a) => Some(a),
                    _ => None,
                });
                let link = stars[node as usize];
                match nearest {
                    _ if old(node) => prop_assert_eq!(link.representative, node),
                    Some(nearest) => prop_assert_eq!(link.representative, nearest),
                    None => prop_assert!(!old(link.representative)),
                }
            }
        }
    }

    #[test]
    fn the_strongest_way_is_taken() {
        let list = [(0, 1, 0.8), (0, 2, 0.9), (1, 2, 0.95)].map(|(a, b, similarity)| Edge { a, b, similarity });
        let links = duplicate_links(list.to_vec(), 3, 0, ClusterShape::Component);
        assert_eq!(links.iter().map(|l| l.linked_to).collect::<Vec<_>>(), [0, 2, 0]);
    }
}
