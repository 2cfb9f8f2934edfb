//! Parses tokens into statements.

use std::sync::Arc;

use super::ast::{For, Macro, Statement, Tag, Target};
use super::expressions::deep;
use super::lexer::{SyntaxError, Token, Tokens, tokens};
use super::reads::reads;
use super::value::Value;

/// The greatest nesting depth of expressions. It bounds the stack that a template needs.
pub(super) const DEEPEST_EXPRESSION: u32 = 400;

/// The greatest nesting depth of blocks.
const DEEPEST_BLOCK: usize = 80;

/// The greatest nesting depth of brackets and signs while parsing.
pub(super) const DEEPEST_READING: usize = 150;

pub(super) struct Parser {
    tokens: Tokens,
    at: usize,
    blocks: usize,
    pub(super) reading: usize,
    /// The number of loops of the same macro around a statement.
    loops: usize,
    /// How often `loop` was assigned.
    loop_stores: usize,
}

pub(super) type Parsed<T> = Result<T, SyntaxError>;

/// The statements of a template.
pub(super) fn parse(source: &str) -> Parsed<Vec<Statement>> {
    let tokens = tokens(source)?;
    let mut parser = Parser { tokens, at: 0, blocks: 0, reading: 0, loops: 0, loop_stores: 0 };
    let (body, _) = parser.statements(&[])?;
    Ok(body)
}

impl Parser {
    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    pub(super) fn peek_second(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    pub(super) fn line(&self) -> usize {
        self.tokens[self.at].1
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(SyntaxError { message: message.into(), line: self.line() })
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> Parsed<T> {
        self.fail(format!("expected {wanted}, found {}", self.peek().described()))
    }

    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(found) if *found == symbol)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if &**found == name)
    }

    pub(super) fn skip_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect_symbol(&mut self, symbol: &str) -> Parsed<()> {
        if self.skip_symbol(symbol) { Ok(()) } else { self.unexpected(&format!("'{symbol}'")) }
    }

    pub(super) fn name(&mut self) -> Parsed<Arc<str>> {
        match self.peek().clone() {
            Token::Name(name) => {
                self.next();
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn expect(&mut self, token: &Token) -> Parsed<()> {
        if self.peek() == token {
            self.next();
            return Ok(());
        }
        self.unexpected(&token.described())
    }

    /// Statements up to a tag with one of these names, and that name; up to the end of the template without names.
    fn statements(&mut self, ends: &[&str]) -> Parsed<(Vec<Statement>, Arc<str>)> {
        if self.blocks > DEEPEST_BLOCK {
            return self.fail("blocks are nested too deeply");
        }
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let node = match self.next() {
                Token::Data(text) => Tag::Text(text),
                Token::Open => {
                    let value = self.tuple(true, true)?;
                    self.expect(&Token::Close)?;
                    Tag::Print(value)
                }
                Token::OpenTag => {
                    let Token::Name(name) = self.peek().clone() else { return self.unexpected("a tag's name") };
                    if ends.contains(&&*name) {
                        self.next();
                        return Ok((body, name));
                    }
                    self.next();
                    self.blocks += 1;
                    let node = self.tag(&name)?;
                    self.blocks -= 1;
                    // `{% print %}` may print several values.
                    match node {
                        Tag::Block(statements) if &*name == "print" => {
                            body.extend(statements);
                            self.expect(&Token::CloseTag)?;
                            continue;
                        }
                        node => {
                            self.expect(&Token::CloseTag)?;
                            node
                        }
                    }
                }
                Token::End if ends.is_empty() => return Ok((body, Arc::from(""))),
                _ => return self.fail(format!("the end of the template was reached before {}", ends.join(" or "))),
            };
            body.push(Statement { line, node });
        }
    }

    /// The body of a block: the rest of its tag, and statements up to one of the ends, whose name is skipped.
    fn body(&mut self, ends: &[&str]) -> Parsed<(Vec<Statement>, Arc<str>)> {
        self.skip_symbol(":");
        self.expect(&Token::CloseTag)?;
        self.statements(ends)
    }

    /// A tag after its name, up to its end.
    fn tag(&mut self, name: &str) -> Parsed<Tag> {
        match name {
            "set" => self.set(),
            "for" => self.for_loop(),
            "if" => self.condition(),
            "with" => self.with(),
            "macro" => {
                let name = self.target_name()?;
                let body = self.macro_body(Some(name.clone()), "endmacro")?;
                Ok(Tag::Macro(name, Arc::new(body)))
            }
            "call" => {
                let (parameters, defaults) = match self.is_symbol("(") {
                    true => self.signature()?,
                    false => Default::default(),
                };
                let call = self.expression(true)?;
                if !matches!(call.node, super::ast::Node::Call(..)) {
                    return self.fail("expected a call");
                }
                let body = self.macro_with(None, parameters, defaults, "endcall")?;
                Ok(Tag::CallBlock(call, Arc::new(body)))
            }
            "filter" => {
                let filter = self.filters(None, true)?;
                let (body, _) = self.body(&["endfilter"])?;
                match filter {
                    Some(filter) => Ok(Tag::FilterBlock(filter, body)),
                    None => self.unexpected("a filter"),
                }
            }
            "generation" => {
                let body = self.macro_with(None, Vec::new(), Vec::new(), "endgeneration")?;
                Ok(Tag::Generation(Arc::new(body)))
            }
            "block" => {
                let name = self.name()?;
                self.skip_name("scoped");
                self.skip_name("required");
                let (body, _) = self.body(&["endblock"])?;
                self.skip_name(&name);
                Ok(Tag::Block(body))
            }
            "autoescape" => {
                let value = self.expression(true)?;
                let (body, _) = self.body(&["endautoescape"])?;
                Ok(Tag::Autoescape(value, body))
            }
            "print" => {
                let mut values = Vec::new();
                while *self.peek() != Token::CloseTag {
                    if !values.is_empty() {
                        self.expect_symbol(",")?;
                    }
                    let line = self.line();
                    values.push(Statement { line, node: Tag::Print(self.expression(true)?) });
                }
                Ok(Tag::Block(values))
            }
            "break" | "continue" if self.loops == 0 => self.fail(format!("'{name}' outside of a loop")),
            "break" => Ok(Tag::Break),
            "continue" => Ok(Tag::Continue),
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.peek(), Token::CloseTag | Token::End) {
                    self.next();
                }
                let known = ["include", "import", "from", "extends"];
                Ok(Tag::Load(known.into_iter().find(|known| *known == name).unwrap_or("include")))
            }
            _ => self.fail(format!("unknown tag '{name}'")),
        }
    }

    fn set(&mut self) -> Parsed<Tag> {
        let target = self.target(&[], true)?;
        if self.skip_symbol("=") {
            return Ok(Tag::Set(target, self.tuple(true, false)?));
        }
        let filter = self.filters(None, false)?;
        let (body, _) = self.body(&["endset"])?;
        Ok(Tag::SetBlock(target, filter, body))
    }

    fn for_loop(&mut self) -> Parsed<Tag> {
        let stores = self.loop_stores;
        let target = self.target(&["in"], false)?;
        if !self.skip_name("in") {
            return self.unexpected("'in'");
        }
        let source = self.tuple(false, false)?;
        let test = if self.skip_name("if") { Some(self.expression(true)?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let (body, end) = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if &*end == "else" { self.body(&["endfor"])?.0 } else { Vec::new() };
        if self.loop_stores > stores {
            return self.fail("'loop' cannot be assigned to in a loop");
        }
        Ok(Tag::For(Box::new(For { target, source, test, recursive, body, otherwise })))
    }

    fn condition(&mut self) -> Parsed<Tag> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false, false)?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((Some(condition), body));
            match &*end {
                "elif" => {}
                "else" => {
                    branches.push((None, self.body(&["endif"])?.0));
                    break;
                }
                _ => break,
            }
        }
        Ok(Tag::If(branches))
    }

    fn with(&mut self) -> Parsed<Tag> {
        let mut values = Vec::new();
        while !matches!(self.peek(), Token::CloseTag | Token::Symbol(":")) {
            if !values.is_empty() {
                self.expect_symbol(",")?;
            }
            let target = self.target(&[], false)?;
            self.expect_symbol("=")?;
            values.push((target, self.expression(true)?));
        }
        let (body, _) = self.body(&["endwith"])?;
        Ok(Tag::With(values, body))
    }

    fn signature(&mut self) -> Parsed<(Vec<Arc<str>>, Vec<super::ast::Expr>)> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        self.expect_symbol("(")?;
        while !self.is_symbol(")") {
            if !parameters.is_empty() {
                self.expect_symbol(",")?;
            }
            let name = self.target_name()?;
            if parameters.contains(&name) {
                return self.fail(format!("duplicate parameter '{name}'"));
            }
            parameters.push(name);
            if self.skip_symbol("=") {
                defaults.push(self.expression(true)?);
            } else if !defaults.is_empty() {
                return self.fail("a parameter without a default follows one with a default");
            }
        }
        self.expect_symbol(")")?;
        Ok((parameters, defaults))
    }

    fn macro_body(&mut self, name: Option<Arc<str>>, end: &str) -> Parsed<Macro> {
        let (parameters, defaults) = self.signature()?;
        self.macro_with(name, parameters, defaults, end)
    }

    fn macro_with(
        &mut self,
        name: Option<Arc<str>>,
        parameters: Vec<Arc<str>>,
        defaults: Vec<super::ast::Expr>,
        end: &str,
    ) -> Parsed<Macro> {
        // A loop outside of the macro does not count inside it.
        let loops = std::mem::take(&mut self.loops);
        let (body, _) = self.body(&[end])?;
        self.loops = loops;
        let reads = reads(&body);
        if let Some(at) = parameters.iter().position(|name| &**name == "caller").filter(|_| reads.caller)
            && at < parameters.len() - defaults.len()
        {
            return self.fail("the parameter 'caller' must have a default");
        }
        Ok(Macro { name, parameters, defaults, body, reads })
    }

    fn target_name(&mut self) -> Parsed<Arc<str>> {
        let name = self.name()?;
        if ["true", "false", "none", "True", "False", "None"].contains(&&*name) {
            return self.fail(format!("'{name}' cannot be assigned to"));
        }
        self.loop_stores += usize::from(&*name == "loop");
        Ok(name)
    }

    /// The target of an assignment: a name, an attribute of a namespace, or several separated by commas.
    fn target(&mut self, ends: &[&str], attributes: bool) -> Parsed<Target> {
        let mut targets = Vec::new();
        let mut several = false;
        loop {
            let at_end = matches!(self.peek(), Token::CloseTag | Token::Symbol(")" | "="))
                || matches!(self.peek(), Token::Name(name) if ends.contains(&&**name));
            if at_end && several {
                break;
            }
            targets.push(self.one_target(ends, attributes)?);
            if !self.skip_symbol(",") {
                break;
            }
            several = true;
        }
        match targets.pop() {
            Some(target) if !several => Ok(target),
            last => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn one_target(&mut self, ends: &[&str], attributes: bool) -> Parsed<Target> {
        if self.skip_symbol("(") {
            self.reading += 1;
            if self.reading > DEEPEST_READING {
                return self.fail("brackets are nested too deeply");
            }
            let target = self.target(ends, attributes)?;
            self.reading -= 1;
            self.expect_symbol(")")?;
            return Ok(target);
        }
        if attributes && *self.peek_second() == Token::Symbol(".") {
            let name = self.name()?;
            self.next();
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(self.target_name()?))
    }

    /// Names of constants.
    pub(super) fn constant(name: &str) -> Option<Value> {
        match name {
            "true" | "True" => Some(Value::Bool(true)),
            "false" | "False" => Some(Value::Bool(false)),
            "none" | "None" => Some(Value::None),
            _ => None,
        }
    }

    /// The expression of a node, unless it is nested too deeply.
    pub(super) fn expr(&self, node: super::ast::Node) -> Parsed<super::ast::Expr> {
        match deep(node) {
            Some(expr) => Ok(expr),
            None => self.fail("an expression is nested too deeply"),
        }
    }
}
