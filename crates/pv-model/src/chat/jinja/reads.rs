//! Finds the special names that the body of a macro reads.

use super::ast::{Arguments, Expr, Macro, Node, Reads, Statement, Tag, Target};

/// The special names that are read before the body assigns to them.
pub(super) fn reads(body: &[Statement]) -> Reads {
    let mut visitor = Visitor::default();
    visitor.statements(body);
    Reads { caller: visitor.found[0], kwargs: visitor.found[1], varargs: visitor.found[2] }
}

const NAMES: [&str; 3] = ["caller", "kwargs", "varargs"];

#[derive(Default)]
struct Visitor {
    found: [bool; 3],
    assigned: [bool; 3],
}

impl Visitor {
    fn name(&mut self, name: &str) {
        if let Some(at) = NAMES.iter().position(|special| *special == name).filter(|&at| !self.assigned[at]) {
            self.found[at] = true;
        }
    }

    fn assign(&mut self, name: &str) {
        if let Some(at) = NAMES.iter().position(|special| *special == name) {
            self.assigned[at] = true;
        }
    }

    fn statements(&mut self, body: &[Statement]) {
        for statement in body {
            self.tag(&statement.node);
        }
    }

    fn tag(&mut self, tag: &Tag) {
        match tag {
            Tag::Text(_) | Tag::Load(_) | Tag::Break | Tag::Continue => {}
            Tag::Print(value) => self.expr(value),
            Tag::If(branches) => {
                for (condition, body) in branches {
                    condition.iter().for_each(|condition| self.expr(condition));
                    self.statements(body);
                }
            }
            Tag::For(node) => {
                self.target(&node.target);
                self.expr(&node.source);
                self.statements(&node.body);
                self.statements(&node.otherwise);
                node.test.iter().for_each(|test| self.expr(test));
            }
            Tag::Set(target, value) => {
                self.target(target);
                self.expr(value);
            }
            Tag::SetBlock(target, filter, body) => {
                self.target(target);
                filter.iter().for_each(|filter| self.expr(filter));
                self.statements(body);
            }
            Tag::With(values, body) => {
                values.iter().for_each(|(target, _)| self.target(target));
                values.iter().for_each(|(_, value)| self.expr(value));
                self.statements(body);
            }
            Tag::Macro(_, body) | Tag::Generation(body) => self.macro_body(body),
            Tag::CallBlock(call, body) => {
                self.expr(call);
                self.macro_body(body);
            }
            Tag::FilterBlock(filter, body) | Tag::Autoescape(filter, body) => {
                self.statements(body);
                self.expr(filter);
            }
            // Jinja does not examine these.
            Tag::Block(_) => {}
        }
    }

    fn macro_body(&mut self, node: &Macro) {
        node.parameters.iter().for_each(|name| self.assign(name));
        node.defaults.iter().for_each(|default| self.expr(default));
        self.statements(&node.body);
    }

    fn target(&mut self, target: &Target) {
        match target {
            Target::Name(name) => self.assign(name),
            Target::Attribute(..) => {}
            Target::Tuple(targets) => targets.iter().for_each(|target| self.target(target)),
        }
    }

    fn expr(&mut self, expr: &Expr) {
        if let Node::Name(name) = &expr.node {
            self.name(name);
        }
        expr.node.for_each(&mut |child| self.expr(child));
    }
}

impl Node {
    /// Visits the parts of an expression.
    pub(super) fn for_each<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Self::Const(_) | Self::Name(_) => {}
            Self::List(items) | Self::Tuple(items) | Self::Concat(items) => items.iter().for_each(visit),
            Self::Dict(pairs) => {
                for (key, value) in pairs {
                    visit(key);
                    visit(value);
                }
            }
            Self::Attribute(value, _) | Self::Not(value) | Self::Negative(value) | Self::Positive(value) => {
                visit(value)
            }
            Self::Item(left, right) | Self::And(left, right) | Self::Or(left, right) | Self::Binary(_, left, right) => {
                visit(left);
                visit(right);
            }
            Self::Slice(value, parts) => {
                visit(value);
                parts.iter().flatten().for_each(visit);
            }
            Self::Call(value, arguments) | Self::Test(value, _, arguments) => {
                visit(value);
                arguments.for_each(visit);
            }
            Self::Filter(value, _, arguments) => {
                value.iter().for_each(|value| visit(value));
                arguments.for_each(visit);
            }
            Self::Compare(first, others) => {
                visit(first);
                others.iter().for_each(|(_, other)| visit(other));
            }
            Self::If(condition, value, other) => {
                visit(condition);
                visit(value);
                other.iter().for_each(|other| visit(other));
            }
        }
    }
}

impl Arguments {
    fn for_each<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        self.positional.iter().for_each(&mut *visit);
        self.named.iter().for_each(|(_, value)| visit(value));
        self.more.iter().for_each(|more| visit(more));
        self.more_named.iter().for_each(|more| visit(more));
    }
}
