//! The nearest known name to a misspelt one.

/// The candidate that takes the fewest edits to reach, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, candidate)| *edits <= (candidate.len() / 3).max(2))
        .map(|(_, candidate)| candidate)
}

/// Leaving off the end of a name is one slip, however long the end.
fn edits(word: &str, candidate: &str) -> usize {
    let left_off = word.len() >= 3 && candidate.len() > word.len() && candidate.starts_with(word);
    if left_off { 1 } else { distance(word, candidate) }
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    rows[0] = (0..=to.len()).collect();
    for i in 1..=from.len() {
        rows[i][0] = i;
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            rows[i][j] = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                rows[i][j] = rows[i][j].min(rows[i - 2][j - 2] + 1);
            }
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_one_edit() {
        assert_eq!(distance("lisetn", "listen"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn what_is_far_from_everything_has_no_nearest() {
        assert_eq!(nearest("zzzzzz", ["listen", "data_dir"]), None);
        assert_eq!(nearest("datadir", ["listen", "data_dir"]), Some("data_dir"));
    }
}
