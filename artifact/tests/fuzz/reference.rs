//! Image references.

use podless_artifact::ImageReference;
use proptest::prelude::*;

/// What must be true of any text, and of what it is read as: its parts become parts of a URL.
fn check(text: &str) {
    for pinned in [None, Some(text)] {
        match ImageReference::parse(text, pinned) {
            Err(error) => assert!(error.to_string().contains("registry/repository:tag"), "{error}"),
            Ok(reference) => {
                let (registry, whole) = (reference.registry(), reference.to_string());
                let foreign = |c: char| c.is_whitespace() || c.is_control() || "?#%\\\"'<>".contains(c);
                assert!(!registry.is_empty() && !registry.contains(['/', '@']), "{text:?} is at {registry:?}");
                let leads_up = whole.split(['/', ':', '@']).any(|part| part == "." || part == "..");
                assert!(!whole.contains(foreign) && !leads_up, "{text:?} is read as {whole:?}");
                let again = ImageReference::parse(&whole, None).expect("what it says of itself is one");
                assert_eq!((again.registry(), again.to_string()), (registry, whole), "{text:?}");
            }
        }
    }
}

#[test]
fn fuzz_of_the_corpus() {
    include_str!("corpus/references.txt").lines().for_each(check);
}

proptest! {
    #[test]
    fn fuzz_of_any_text(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn fuzz_of_what_looks_like_one(
        text in r"([a-zA-Z0-9._\[\]-]{0,12}(:[0-9]{0,6})?/)?[a-zA-Z0-9._/-]{0,24}(:[a-zA-Z0-9._-]{0,12})?(@[a-z0-9]{0,7}:[0-9a-fA-F]{0,66})?"
    ) {
        check(&text);
    }

    #[test]
    fn fuzz_of_one_that_was_changed(at in 0usize..100, with in any::<char>(), cut in any::<bool>()) {
        let text = format!("registry.example.com:5000/team/hello:1.0@sha256:{}", "a".repeat(64));
        let mut characters: Vec<char> = text.chars().collect();
        let at = at % characters.len();
        if cut { characters.truncate(at) } else { characters[at] = with }
        check(&characters.into_iter().collect::<String>());
    }
}
