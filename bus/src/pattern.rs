//! Subject patterns, looked up by shape: a subject of n tokens can only match patterns whose wildcards stand in places
//! that some live pattern uses, so a publish costs one hash look-up a live shape, not one a subscriber.

/// Where a pattern has its wildcards: bit i = token i is `*`; `rest` = it ends in `>` after `tokens` fixed tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    tokens: u8,
    stars: u32,
    rest: bool,
}

impl Shape {
    /// The shape of a pattern. Patterns have at most 32 tokens; ours have four.
    pub fn of(pattern: &str) -> Self {
        let mut shape = Self { tokens: 0, stars: 0, rest: false };
        for token in pattern.split('.').take(32) {
            match token {
                ">" => shape.rest = true,
                "*" => {
                    shape.stars |= 1 << shape.tokens;
                    shape.tokens += 1;
                }
                _ => shape.tokens += 1,
            }
        }
        shape
    }

    /// The pattern of this shape that `subject` would match, if its number of tokens fits.
    pub fn apply(self, subject: &str) -> Option<String> {
        let count = subject.split('.').count();
        let wanted = usize::from(self.tokens);
        if (self.rest && count <= wanted) || (!self.rest && count != wanted) {
            return None;
        }
        let mut pattern = String::with_capacity(subject.len());
        for (i, token) in subject.split('.').take(wanted).enumerate() {
            if i > 0 {
                pattern.push('.');
            }
            pattern.push_str(if self.stars & (1 << i) == 0 { token } else { "*" });
        }
        if self.rest {
            pattern.push_str(if wanted == 0 { ">" } else { ".>" });
        }
        Some(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, subject: &str) -> bool {
        Shape::of(pattern).apply(subject).as_deref() == Some(pattern)
    }

    #[test]
    fn wildcards_match_as_in_nats() {
        assert!(matches("agent.a.*", "agent.a.command"));
        assert!(!matches("agent.a.*", "agent.b.command"));
        assert!(!matches("agent.a.*", "agent.a"));
        assert!(!matches("agent.a.*", "agent.a.b.c"));
        assert!(matches("revoked.>", "revoked.user.1"));
        assert!(!matches("revoked.>", "revoked"));
        assert!(matches(">", "x"));
        assert!(matches("host.*.changed", "host.1.changed"));
        assert!(matches("a.b", "a.b"));
    }
}
