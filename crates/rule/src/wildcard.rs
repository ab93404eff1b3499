//! `*` for any characters, `?` for exactly one, as in `DOMAIN-WILDCARD`.

/// Whether the whole text fits the pattern. Time is at most the product of both lengths: after a mismatch only the
/// latest star is tried further on, since an earlier one that took more could only help a later star do the same.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the latest star, and where its match ends so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), text.get(t)) {
            (Some(b'*'), _) => {
                p += 1;
                star = Some((p, t));
            }
            (Some(b'?'), _) => (p, t) = (p + 1, t + 1),
            (Some(a), Some(b)) if a == b => (p, t) = (p + 1, t + 1),
            _ => match &mut star {
                Some((after, end)) => {
                    *end += 1;
                    (p, t) = (*after, *end);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    /// The obvious way.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            [b'?', rest @ ..] => !text.is_empty() && slow(rest, &text[1..]),
            [byte, rest @ ..] => text.first() == Some(byte) && slow(rest, &text[1..]),
        }
    }

    #[test]
    fn agrees_with_the_obvious_way() {
        let mut seed = 1u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for round in 0..50_000 {
            let pattern: Vec<u8> = (0..next(7)).map(|_| b"ab*?."[next(5) as usize]).collect();
            let text: Vec<u8> = (0..next(8)).map(|_| b"ab."[next(3) as usize]).collect();
            assert_eq!(
                matches(&pattern, &text),
                slow(&pattern, &text),
                "round {round}: {pattern:?} {text:?}"
            );
        }
    }

    #[test]
    fn whole_names() {
        for (pattern, name, expected) in [
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "example.com", false),
            ("www.*.com", "www.a.b.com", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
