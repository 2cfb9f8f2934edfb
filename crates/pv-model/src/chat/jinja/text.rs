//! Python's rules for characters and words.

/// Python's white space.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// The zero of each script; the nine other digits follow it.
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0,
    0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// Digits that are not decimal: superscripts, circled digits, ….
const OTHER_DIGITS: [(u32, u32); 20] = [
    (178, 179),
    (185, 185),
    (4969, 4977),
    (6618, 6618),
    (8304, 8304),
    (8308, 8313),
    (8320, 8329),
    (9312, 9320),
    (9332, 9340),
    (9352, 9360),
    (9450, 9450),
    (9461, 9469),
    (9471, 9471),
    (10102, 10110),
    (10112, 10120),
    (10122, 10130),
    (68160, 68163),
    (69216, 69224),
    (69714, 69722),
    (127_232, 127_242),
];

/// The value of a decimal digit of any script.
pub(super) fn decimal_digit(character: char) -> Option<u32> {
    let code = u32::from(character);
    ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&code)).map(|zero| code - zero)
}

/// Python's `isdigit` of a character.
pub(super) fn is_digit(character: char) -> bool {
    let code = u32::from(character);
    decimal_digit(character).is_some() || OTHER_DIGITS.iter().any(|(first, last)| (*first..=*last).contains(&code))
}

/// Python's `isnumeric` of a character.
pub(super) fn is_numeric(character: char) -> bool {
    const IDEOGRAPHS: &str = "一二三四五六七八九十百千万億兆〇零壱壹弐貳贰参參叁肆伍陸陆柒捌玖拾佰仟萬亿";
    character.is_numeric() || IDEOGRAPHS.contains(character)
}

fn title_case(character: char) -> String {
    match character {
        'Ǆ'..='ǆ' => "ǅ".to_owned(),
        'Ǉ'..='ǉ' => "ǈ".to_owned(),
        'Ǌ'..='ǌ' => "ǋ".to_owned(),
        'Ǳ'..='ǳ' => "ǲ".to_owned(),
        _ => {
            let mut upper = character.to_uppercase();
            let mut text: String = upper.next().into_iter().collect();
            // Ligatures: only the first letter is upper case.
            text.extend(upper.flat_map(char::to_lowercase));
            text
        }
    }
}

/// Python's `title`.
pub(super) fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut word = String::new();
    for character in text.chars() {
        if character.is_lowercase() || character.is_uppercase() {
            word.push(character);
        } else {
            titled.push_str(&capitalize(&word));
            word.clear();
            titled.push(character);
        }
    }
    titled + &capitalize(&word)
}

/// Python's `capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => {
            // Lowered as a whole, since the form of a sigma depends on the preceding characters.
            let lowered = text.to_lowercase();
            let first_lowered: usize = first.to_lowercase().map(char::len_utf8).sum();
            title_case(first) + lowered.get(first_lowered..).unwrap_or_default()
        }
        None => String::new(),
    }
}

pub(super) fn swapcase(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_uppercase() {
            swapped.extend(character.to_lowercase());
        } else {
            swapped.extend(character.to_uppercase());
        }
    }
    swapped
}

/// The words of a text, at most `most` + 1.
pub(super) fn words(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if parts.len() < most { rest.find(is_space).unwrap_or(rest.len()) } else { rest.len() };
        let (word, after) = rest.split_at(end);
        // The last part keeps its inner white space, but not that at its end.
        parts.push(word);
        rest = after.trim_start_matches(is_space);
    }
    parts
}

/// The words of a text from its end, at most `most` + 1, the last one first.
pub(super) fn words_from_right(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let word = if parts.len() < most { rest.rsplit(is_space).next().unwrap_or(rest) } else { rest };
        parts.push(word);
        rest = rest[..rest.len() - word.len()].trim_end_matches(is_space);
    }
    parts
}

pub(super) fn splitlines(text: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let ends = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    while let Some(at) = rest.find(ends) {
        let after = &rest[at..];
        let length = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..at + if keep { length } else { 0 }]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// A text with HTML's special characters as entities.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            _ => out.push(character),
        }
    }
    out
}

/// A text between fill characters: `width` wide, with `left` of the fill on the left.
pub(super) fn padded(text: &str, width: usize, fill: char, left: impl Fn(usize) -> usize) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = left(missing);
    let fill = |count: usize| std::iter::repeat_n(fill, count);
    fill(left).chain(text.chars()).chain(fill(missing - left)).collect()
}

/// How many fill characters Python's `center` puts on the left.
pub(super) fn center_left(missing: usize, width: usize) -> usize {
    missing / 2 + (missing & width & 1)
}
