//! Splits a template's text into tokens, with Jinja's rules for white space (`trim_blocks` and `lstrip_blocks` set).

use std::sync::Arc;

use super::text::is_space;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Data(Arc<str>),
    /// `{{`, `}}`, `{%`, `%}`.
    Open,
    Close,
    OpenTag,
    CloseTag,
    Name(Arc<str>),
    Str(Arc<str>),
    Int(i128),
    Float(f64),
    Symbol(&'static str),
    End,
}

impl Token {
    /// The token in an error message.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Data(_) => "text".to_owned(),
            Self::Open => "'{{'".to_owned(),
            Self::Close => "'}}'".to_owned(),
            Self::OpenTag => "'{%'".to_owned(),
            Self::CloseTag => "'%}'".to_owned(),
            Self::Name(name) => format!("'{name}'"),
            Self::Str(_) => "a string".to_owned(),
            Self::Int(_) | Self::Float(_) => "a number".to_owned(),
            Self::Symbol(symbol) => format!("'{symbol}'"),
            Self::End => "the end of the template".to_owned(),
        }
    }
}

/// Tokens with their lines.
pub(super) type Tokens = Vec<(Token, usize)>;

/// A syntax error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chat) struct SyntaxError {
    pub(in crate::chat) message: String,
    /// From 1.
    pub(in crate::chat) line: usize,
}

const SYMBOLS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Whether the text read last ended a line.
    line_starting: bool,
    tokens: Tokens,
}

pub(super) fn tokens(source: &str) -> Result<Tokens, SyntaxError> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, line_starting: true, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.root()?;
    }
    lexer.push(Token::End);
    Ok(lexer.tokens)
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { message: message.into(), line: self.line })
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    /// Skips `bytes`.
    fn skip(&mut self, bytes: usize) {
        let passed = &self.rest()[..bytes];
        self.line += passed.matches('\n').count();
        if !passed.is_empty() {
            self.line_starting = passed.ends_with('\n');
        }
        self.at += bytes;
    }

    /// Text up to the next tag, and the kind of the tag.
    fn root(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let found = rest.as_bytes().windows(2).position(|pair| matches!(pair, b"{{" | b"{%" | b"{#"));
        let Some(open) = found else {
            self.push(Token::Data(rest.into()));
            self.skip(rest.len());
            return Ok(());
        };
        let sign = rest[open + 2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
        let variable = rest[open..].starts_with("{{");
        self.data(open, sign, !variable);
        let after = 2 + usize::from(sign.is_some());
        match &rest[open..open + 2] {
            "{{" => {
                self.push(Token::Open);
                self.skip(after);
                self.code(true)
            }
            "{#" => self.comment(after),
            _ => match raw_begin(&rest[open + after..]) {
                Some(length) => {
                    self.skip(after + length);
                    self.raw()
                }
                None => {
                    self.push(Token::OpenTag);
                    self.skip(after);
                    self.code(false)
                }
            },
        }
    }

    /// The text of `length` bytes before a tag, without the white space that the tag strips.
    fn data(&mut self, length: usize, sign: Option<char>, lstrip: bool) {
        let text = &self.rest()[..length];
        let kept = match sign {
            Some('-') => text.trim_end_matches(is_space),
            Some(_) => text,
            None if lstrip => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let blank = line < text.len() && text[line..].chars().all(is_space);
                if blank && (line > 0 || self.line_starting) { &text[..line] } else { text }
            }
            None => text,
        };
        if !kept.is_empty() {
            self.push(Token::Data(kept.into()));
        }
        self.skip(length);
    }

    fn comment(&mut self, opening: usize) -> Result<(), SyntaxError> {
        self.skip(opening);
        let rest = self.rest();
        let Some(end) = rest.find("#}") else { return self.fail("missing end of comment tag") };
        // The sign belongs to the end only if it is not part of the start.
        let sign = rest[..end].chars().next_back();
        self.skip(end + 2);
        self.after_tag(sign);
        Ok(())
    }

    /// White space after the end of a block or comment.
    fn after_tag(&mut self, sign: Option<char>) {
        let rest = self.rest();
        match sign {
            Some('-') => self.skip(rest.len() - rest.trim_start_matches(is_space).len()),
            Some('+') => {}
            _ => self.skip(usize::from(rest.starts_with('\n'))),
        }
    }

    fn raw(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let mut from = 0;
        while let Some(open) = rest[from..].find("{%").map(|found| from + found) {
            let inside = &rest[open + 2..];
            let sign = inside.chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let word = inside[usize::from(sign.is_some())..].trim_start_matches(is_space);
            if let Some(close) = word.strip_prefix("endraw") {
                let close = close.trim_start_matches(is_space);
                let end_sign = close.chars().next().filter(|sign| matches!(sign, '-' | '+'));
                if close[usize::from(end_sign.is_some())..].starts_with("%}") {
                    let end = rest.len() - close.len() + usize::from(end_sign.is_some()) + 2;
                    self.data(open, sign, true);
                    self.skip(end - open);
                    self.after_tag(end_sign);
                    return Ok(());
                }
            }
            from = open + 2;
        }
        self.fail("missing end of raw directive")
    }

    /// The code of a tag, up to its end.
    fn code(&mut self, variable: bool) -> Result<(), SyntaxError> {
        let mut brackets: Vec<&str> = Vec::new();
        loop {
            let rest = self.rest();
            if brackets.is_empty() && self.end_of_code(variable) {
                return Ok(());
            }
            let Some(first) = rest.chars().next() else {
                return self.fail("unexpected end of template");
            };
            if is_space(first) {
                self.skip(rest.len() - rest.trim_start_matches(is_space).len());
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first == '_' || first.is_alphanumeric() {
                let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                self.push(Token::Name(rest[..length].into()));
                self.skip(length);
            } else if matches!(first, '\'' | '"') {
                self.string(first)?;
            } else {
                let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) else {
                    return self.fail(format!("unexpected character {first:?}"));
                };
                match symbol {
                    "{" => brackets.push("}"),
                    "(" => brackets.push(")"),
                    "[" => brackets.push("]"),
                    "}" | ")" | "]" => match brackets.pop() {
                        Some(expected) if expected == symbol => {}
                        Some(expected) => {
                            return self.fail(format!("unexpected '{symbol}', expected '{expected}'"));
                        }
                        None => return self.fail(format!("unexpected '{symbol}'")),
                    },
                    _ => {}
                }
                self.push(Token::Symbol(symbol));
                self.skip(symbol.len());
            }
        }
    }

    /// Skips the end of the code, if it is here.
    fn end_of_code(&mut self, variable: bool) -> bool {
        let rest = self.rest();
        let end = if variable { "}}" } else { "%}" };
        let sign = match rest.chars().next() {
            Some('-') => Some('-'),
            Some('+') if !variable => Some('+'),
            _ => None,
        };
        let length = usize::from(sign.is_some());
        if !rest[length..].starts_with(end) {
            return false;
        }
        self.push(if variable { Token::Close } else { Token::CloseTag });
        self.skip(length + 2);
        if !variable || sign.is_some() {
            self.after_tag(sign);
        }
        true
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let after_dot = self.source[..self.at].ends_with('.');
        if let Some(length) = float_length(rest).filter(|_| !after_dot) {
            let value = rest[..length].replace('_', "").parse::<f64>();
            let Ok(value) = value else { return self.fail("bad number") };
            self.push(Token::Float(value));
            self.skip(length);
            return Ok(());
        }
        let lower = rest.get(..2).unwrap_or_default().to_ascii_lowercase();
        let radix = match lower.as_str() {
            "0x" => 16,
            "0o" => 8,
            "0b" => 2,
            _ => 10,
        };
        let prefix = if radix == 10 { 0 } else { 2 };
        let mut length = digits(&rest[prefix..], radix, prefix > 0) + prefix;
        let (radix, prefix) = if length == prefix { (10, 0) } else { (radix, prefix) };
        if radix == 10 {
            // A leading zero may only be followed by zeros.
            let zeros = if rest.starts_with('0') { digits(rest, 1, false) } else { 0 };
            length = if zeros > 0 { zeros } else { digits(rest, 10, false) };
        }
        let value = i128::from_str_radix(&rest[prefix..length].replace('_', ""), radix);
        let Ok(value) = value else { return self.fail("an integer has more than 127 bits") };
        self.push(Token::Int(value));
        self.skip(length);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1).peekable();
        while let Some((at, character)) = chars.next() {
            if character == quote {
                self.push(Token::Str(text.into()));
                self.skip(at + 1);
                return Ok(());
            }
            if character != '\\' {
                text.push(character);
                continue;
            }
            let Some((_, escaped)) = chars.next() else { break };
            let simple = match escaped {
                '\n' => continue,
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'v' => '\u{b}',
                '\\' | '\'' | '"' => escaped,
                '0'..='7' => {
                    let mut code = escaped.to_digit(8).unwrap_or(0);
                    for _ in 0..2 {
                        let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(8)) else { break };
                        code = code * 8 + digit;
                        chars.next();
                    }
                    char::from_u32(code).unwrap_or_default()
                }
                'x' | 'u' | 'U' => {
                    let length = match escaped {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let digits: Option<Vec<u32>> =
                        (0..length).map(|_| chars.next().and_then(|(_, c)| c.to_digit(16))).collect();
                    let code = digits.map(|digits| digits.iter().fold(0_u32, |code, digit| code << 4 | digit));
                    match code.and_then(char::from_u32) {
                        Some(character) => character,
                        None => return self.fail(format!("an invalid \\{escaped} escape")),
                    }
                }
                'N' => return self.fail("\\N{…} escapes are not supported"),
                other => {
                    text.push('\\');
                    other
                }
            };
            text.push(simple);
        }
        self.fail("missing end of a string")
    }
}

/// The text after `{%` and its sign at the start of a raw block.
fn raw_begin(inside: &str) -> Option<usize> {
    let word = inside.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let rest = match word.strip_prefix('-') {
        Some(rest) => rest.strip_prefix("%}")?.trim_start_matches(is_space),
        None => word.strip_prefix("%}")?,
    };
    Some(inside.len() - rest.len())
}

/// The length of the digits at the start of `text`; single underscores may separate them.
fn digits(text: &str, radix: u32, underscore_first: bool) -> usize {
    let is_digit = |c: char| if radix == 1 { c == '0' } else { c.is_digit(radix) };
    let (mut length, mut underscore) = (0, underscore_first);
    for (at, character) in text.char_indices() {
        if is_digit(character) {
            length = at + 1;
            underscore = true;
        } else if character == '_' && underscore {
            underscore = false;
        } else {
            break;
        }
    }
    length
}

/// The length of the float at the start of `text`.
fn float_length(text: &str) -> Option<usize> {
    let whole = digits(text, 10, false);
    let fraction = match text[whole..].strip_prefix('.') {
        Some(rest) => match digits(rest, 10, false) {
            0 => 0,
            length => length + 1,
        },
        None => 0,
    };
    let mantissa = whole + fraction;
    let exponent = text[mantissa..].strip_prefix(['e', 'E']).map(|rest| {
        let unsigned = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        match digits(unsigned, 10, false) {
            0 => 0,
            length => 1 + rest.len() - unsigned.len() + length,
        }
    });
    match exponent.unwrap_or(0) {
        0 if fraction == 0 => None,
        exponent => Some(mantissa + exponent),
    }
}
