//! The tree of a prompt's continuations: each common beginning is one node.

use std::collections::BTreeMap;

/// The tokens before a continuation's token: the prompt (node 0), or the prompt and some tokens.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The number of tokens after the prompt.
    pub(super) depth: usize,
    /// Nodes with one more token.
    pub(super) children: BTreeMap<u32, usize>,
    /// The continuations that contain this node.
    pub(super) continuations: Vec<usize>,
}

/// The nodes of a prompt's continuations: a continuation of n tokens has n nodes, the last of which precedes its last
/// token.
pub(super) fn tree(continuations: &[Vec<u32>]) -> Vec<Node> {
    let mut nodes = vec![Node::default()];
    for (index, continuation) in continuations.iter().enumerate() {
        let mut at = 0;
        nodes[at].continuations.push(index);
        let before_last = continuation.len().saturating_sub(1);
        for &token in &continuation[..before_last] {
            let (fresh, depth) = (nodes.len(), nodes[at].depth + 1);
            let next = *nodes[at].children.entry(token).or_insert(fresh);
            if next == fresh {
                nodes.push(Node { depth, ..Node::default() });
            }
            at = next;
            nodes[at].continuations.push(index);
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_every_beginning_once() {
        let nodes = tree(&[vec![5], vec![5, 6], vec![5, 6, 7], vec![8, 6], vec![5, 6, 7], vec![]]);
        let shape: Vec<_> = nodes.iter().map(|node| (node.depth, node.continuations.clone())).collect();
        let expected = [(0, vec![0, 1, 2, 3, 4, 5]), (1, vec![1, 2, 4]), (2, vec![2, 4]), (1, vec![3])];
        assert_eq!(shape, expected);
        assert_eq!(nodes[0].children, BTreeMap::from([(5, 1), (8, 3)]));
        assert_eq!(nodes[1].children, BTreeMap::from([(6, 2)]));
    }
}
