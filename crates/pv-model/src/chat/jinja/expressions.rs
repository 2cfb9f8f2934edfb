//! Parses tokens into expressions.

use std::sync::Arc;

use super::ast::{Arguments, Binary, Comparison, Expr, Node};
use super::lexer::Token;
use super::parser::{DEEPEST_EXPRESSION, DEEPEST_READING, Parsed, Parser};
use super::value::Value;

/// The expression of a node; `None` if it is nested too deeply.
pub(super) fn deep(node: Node) -> Option<Expr> {
    let mut depth = 0;
    node.for_each(&mut |child| depth = depth.max(child.depth));
    (depth < DEEPEST_EXPRESSION).then_some(Expr { node, depth: depth + 1 })
}

impl Parser {
    /// An expression, or several separated by commas, which form a tuple. `condition` permits `a if b else c`.
    pub(super) fn tuple(&mut self, condition: bool, explicit: bool) -> Parsed<Expr> {
        let mut items = Vec::new();
        let mut several = false;
        loop {
            let end = matches!(self.peek(), Token::Close | Token::CloseTag | Token::Symbol(")"));
            // Also before `recursive`, where a loop's source ends.
            if end || (!condition && several && self.is_name("recursive")) {
                break;
            }
            items.push(self.expression(condition)?);
            if !self.skip_symbol(",") {
                break;
            }
            several = true;
        }
        match items.pop() {
            Some(item) if !several => Ok(item),
            None if !explicit || !self.is_symbol(")") => self.unexpected("an expression"),
            last => {
                items.extend(last);
                self.expr(Node::Tuple(items))
            }
        }
    }

    pub(super) fn expression(&mut self, condition: bool) -> Parsed<Expr> {
        self.reading += 1;
        if self.reading > DEEPEST_READING {
            return self.fail("an expression is nested too deeply");
        }
        let mut value = self.or()?;
        while condition && self.skip_name("if") {
            let test = self.or()?;
            let other = if self.skip_name("else") { Some(Box::new(self.expression(true)?)) } else { None };
            value = self.expr(Node::If(Box::new(test), Box::new(value), other))?;
        }
        self.reading -= 1;
        Ok(value)
    }

    fn or(&mut self) -> Parsed<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            left = self.expr(Node::Or(Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            left = self.expr(Node::And(Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed<Expr> {
        let mut negations = 0_usize;
        while self.skip_name("not") {
            negations += 1;
        }
        let mut value = self.comparison()?;
        for _ in 0..negations {
            value = self.expr(Node::Not(Box::new(value)))?;
        }
        Ok(value)
    }

    fn comparison(&mut self) -> Parsed<Expr> {
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.peek() {
                Token::Symbol("==") => Comparison::Equal,
                Token::Symbol("!=") => Comparison::NotEqual,
                Token::Symbol("<") => Comparison::Less,
                Token::Symbol("<=") => Comparison::LessEqual,
                Token::Symbol(">") => Comparison::Greater,
                Token::Symbol(">=") => Comparison::GreaterEqual,
                Token::Name(name) if &**name == "in" => Comparison::In,
                Token::Name(name) if &**name == "not" => match self.peek_second() {
                    Token::Name(second) if &**second == "in" => {
                        self.next();
                        Comparison::NotIn
                    }
                    _ => break,
                },
                _ => break,
            };
            self.next();
            others.push((comparison, self.sum()?));
        }
        match others.is_empty() {
            true => Ok(first),
            false => self.expr(Node::Compare(Box::new(first), others)),
        }
    }

    fn binary(&mut self, operators: &[(&str, Binary)], operand: fn(&mut Self) -> Parsed<Expr>) -> Parsed<Expr> {
        let mut left = operand(self)?;
        while let Some((_, operator)) = operators.iter().find(|(symbol, _)| self.is_symbol(symbol)) {
            self.next();
            let right = operand(self)?;
            left = self.expr(Node::Binary(*operator, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed<Expr> {
        self.binary(&[("+", Binary::Add), ("-", Binary::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Parsed<Expr> {
        let first = self.product()?;
        if !self.is_symbol("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_symbol("~") {
            parts.push(self.product()?);
        }
        self.expr(Node::Concat(parts))
    }

    fn product(&mut self) -> Parsed<Expr> {
        let operators = [("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Mod)];
        self.binary(&operators, Self::power)
    }

    fn power(&mut self) -> Parsed<Expr> {
        self.binary(&[("**", Binary::Pow)], |parser| parser.unary(true))
    }

    fn unary(&mut self, filters: bool) -> Parsed<Expr> {
        self.reading += 1;
        if self.reading > DEEPEST_READING {
            return self.fail("an expression is nested too deeply");
        }
        let value = if self.skip_symbol("-") {
            let value = self.unary(false)?;
            self.expr(Node::Negative(Box::new(value)))?
        } else if self.skip_symbol("+") {
            let value = self.unary(false)?;
            self.expr(Node::Positive(Box::new(value)))?
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        self.reading -= 1;
        if !filters {
            return Ok(value);
        }
        self.filter_expression(value)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let node = match self.peek().clone() {
            Token::Name(name) => {
                self.next();
                match Self::constant(&name) {
                    Some(value) => Node::Const(value),
                    None => Node::Name(name),
                }
            }
            Token::Str(text) => {
                self.next();
                let mut text = text;
                while let Token::Str(more) = self.peek().clone() {
                    self.next();
                    text = Arc::from([&*text, &*more].concat());
                }
                Node::Const(Value::Str(text))
            }
            Token::Int(number) => {
                self.next();
                Node::Const(Value::Int(number))
            }
            Token::Float(number) => {
                self.next();
                Node::Const(Value::Float(number))
            }
            Token::Symbol("(") => {
                self.next();
                let value = self.tuple(true, true)?;
                self.expect_symbol(")")?;
                return Ok(value);
            }
            Token::Symbol("[") => {
                self.next();
                let mut items = Vec::new();
                while !self.is_symbol("]") {
                    items.push(self.expression(true)?);
                    if !self.skip_symbol(",") {
                        break;
                    }
                }
                self.expect_symbol("]")?;
                Node::List(items)
            }
            Token::Symbol("{") => {
                self.next();
                let mut pairs = Vec::new();
                while !self.is_symbol("}") {
                    let key = self.expression(true)?;
                    self.expect_symbol(":")?;
                    pairs.push((key, self.expression(true)?));
                    if !self.skip_symbol(",") {
                        break;
                    }
                }
                self.expect_symbol("}")?;
                Node::Dict(pairs)
            }
            _ => return self.unexpected("an expression"),
        };
        self.expr(node)
    }

    fn postfix(&mut self, mut value: Expr) -> Parsed<Expr> {
        loop {
            value = match self.peek() {
                Token::Symbol("." | "[") => self.subscript(value)?,
                Token::Symbol("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    /// Filters, tests and calls after a value.
    fn filter_expression(&mut self, mut value: Expr) -> Parsed<Expr> {
        loop {
            value = match self.peek() {
                Token::Symbol("|") => match self.filters(Some(value), false)? {
                    Some(value) => value,
                    None => return self.unexpected("a filter"),
                },
                Token::Symbol("(") => self.call(value)?,
                Token::Name(name) if &**name == "is" => self.test(value)?,
                _ => return Ok(value),
            };
        }
    }

    fn subscript(&mut self, value: Expr) -> Parsed<Expr> {
        if self.skip_symbol(".") {
            return match self.next() {
                Token::Name(name) => self.expr(Node::Attribute(Box::new(value), name)),
                Token::Int(number) => {
                    let index = self.expr(Node::Const(Value::Int(number)))?;
                    self.expr(Node::Item(Box::new(value), Box::new(index)))
                }
                _ => self.fail("expected a name or a number after '.'"),
            };
        }
        self.expect_symbol("[")?;
        let mut parts: Vec<Result<Expr, [Option<Expr>; 3]>> = Vec::new();
        while !self.is_symbol("]") {
            if !parts.is_empty() {
                self.expect_symbol(",")?;
            }
            parts.push(self.subscribed()?);
        }
        self.expect_symbol("]")?;
        match (parts.pop(), parts.is_empty()) {
            (Some(Ok(index)), true) => self.expr(Node::Item(Box::new(value), Box::new(index))),
            (Some(Err(slice)), true) => self.expr(Node::Slice(Box::new(value), Box::new(slice))),
            (None, _) => self.unexpected("an expression"),
            (Some(last), false) => {
                parts.push(last);
                let items: Result<Vec<Expr>, _> = parts.into_iter().collect();
                match items {
                    Ok(items) => {
                        let index = self.expr(Node::Tuple(items))?;
                        self.expr(Node::Item(Box::new(value), Box::new(index)))
                    }
                    Err(_) => self.fail("a slice inside a tuple"),
                }
            }
        }
    }

    /// An index, or the three parts of a slice.
    fn subscribed(&mut self) -> Parsed<Result<Expr, [Option<Expr>; 3]>> {
        let start = if self.is_symbol(":") { None } else { Some(self.expression(true)?) };
        if !self.skip_symbol(":") {
            return match start {
                Some(index) => Ok(Ok(index)),
                None => self.unexpected("an expression"),
            };
        }
        let ends = |parser: &Self| parser.is_symbol("]") || parser.is_symbol(",");
        let stop = if self.is_symbol(":") || ends(self) { None } else { Some(self.expression(true)?) };
        let step = if self.skip_symbol(":") && !ends(self) { Some(self.expression(true)?) } else { None };
        Ok(Err([start, stop, step]))
    }

    fn call(&mut self, value: Expr) -> Parsed<Expr> {
        let arguments = self.arguments()?;
        self.expr(Node::Call(Box::new(value), arguments))
    }

    fn arguments(&mut self) -> Parsed<Arguments> {
        self.expect_symbol("(")?;
        let mut arguments = Arguments::default();
        while !self.is_symbol(")") {
            let Arguments { positional, named, more, more_named } = &mut arguments;
            let misplaced = if self.skip_symbol("*") {
                let misplaced = more.is_some() || more_named.is_some();
                *more = Some(Box::new(self.expression(true)?));
                misplaced
            } else if self.skip_symbol("**") {
                let misplaced = more_named.is_some();
                *more_named = Some(Box::new(self.expression(true)?));
                misplaced
            } else if matches!(self.peek(), Token::Name(_)) && *self.peek_second() == Token::Symbol("=") {
                let name = self.name()?;
                self.next();
                let misplaced = more_named.is_some() || named.iter().any(|(found, _)| *found == name);
                named.push((name, self.expression(true)?));
                misplaced
            } else {
                positional.push(self.expression(true)?);
                more.is_some() || more_named.is_some() || !named.is_empty()
            };
            if misplaced {
                return self.fail("the arguments of a call are in an invalid order");
            }
            if !self.skip_symbol(",") {
                break;
            }
        }
        self.expect_symbol(")")?;
        Ok(arguments)
    }

    fn dotted(&mut self) -> Parsed<Arc<str>> {
        let mut name = self.name()?;
        while self.skip_symbol(".") {
            name = Arc::from(format!("{name}.{}", self.name()?));
        }
        Ok(name)
    }

    /// The following filters, applied to `value`; with `inline`, the first one has no `|`.
    pub(super) fn filters(&mut self, value: Option<Expr>, mut inline: bool) -> Parsed<Option<Expr>> {
        let mut value = value;
        while inline || self.skip_symbol("|") {
            inline = false;
            let name = self.dotted()?;
            let arguments = if self.is_symbol("(") { self.arguments()? } else { Arguments::default() };
            value = Some(self.expr(Node::Filter(value.map(Box::new), name, arguments))?);
        }
        Ok(value)
    }

    fn test(&mut self, value: Expr) -> Parsed<Expr> {
        self.next();
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let mut arguments = Arguments::default();
        match self.peek().clone() {
            Token::Symbol("(") => arguments = self.arguments()?,
            Token::Name(name) if ["else", "or", "and"].contains(&&*name) => {}
            Token::Name(name) if &*name == "is" => return self.fail("tests cannot be chained with 'is'"),
            Token::Name(_) | Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Symbol("[" | "{") => {
                let argument = self.primary()?;
                arguments.positional.push(self.postfix(argument)?);
            }
            _ => {}
        }
        let test = self.expr(Node::Test(Box::new(value), name, arguments))?;
        if negated { self.expr(Node::Not(Box::new(test))) } else { Ok(test) }
    }
}
