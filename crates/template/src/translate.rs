//! jinja2's template to minijinja's: the same statements, with every operator written as a call of ours.
//!
//! minijinja parses the template; what it found is written out again with `a.b + c` as `a|_attr("b")|_add(c)`, text as
//! `{{ "text" }}` (so that it is paid for), `{% generation %}` as a scope and `{% set ns.x = .. %}` as a call. Every
//! node stays on its line, so that errors name the template's own lines. What jinja2 refuses when it compiles is
//! refused here.

use crate::prepare::{Bad, bad, prepare, syntax};
use crate::{filters, tests};
use minijinja::machinery::{Span, ast, parse};
use minijinja::value::{Value as Engine, ValueKind};
use std::fmt::Write;

const NO_OTHERS: &str = "a chat template cannot read other templates";

type Done = Result<(), Bad>;

/// The template as minijinja is to run it (with default syntax).
pub(crate) fn translate(source: &str) -> Result<String, Bad> {
    let source = prepare(source)?;
    let parsed = parse(&source, "template", syntax()?).map_err(|e| bad(&e))?;
    let mut writer = Writer { out: String::new(), line: 1, unknown: Vec::new(), certain: None };
    let ast::Stmt::Template(template) = &parsed else { return Ok(String::new()) };
    writer.body(&template.children)?;
    match writer.certain.or(writer.unknown.into_iter().next()) {
        Some(bad) => Err(bad),
        None => Ok(writer.out),
    }
}

/// How tightly an expression binds when written out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Condition,
    Or,
    And,
    Not,
    /// A name, a literal, or these with filters behind them.
    Filtered,
}

struct Writer {
    out: String,
    /// The line that `out` has reached.
    line: usize,
    /// Filters and tests that do not exist, outside of the conditions seen so far.
    unknown: Vec<Bad>,
    /// The first of them that no condition can excuse: a scope lies between.
    certain: Option<Bad>,
}

impl Writer {
    /// Begins a tag on the node's line.
    fn open(&mut self, mark: &str, span: Span) {
        self.out.push_str(mark);
        let line = usize::from(span.start_line);
        self.out.extend(std::iter::repeat_n('\n', line.saturating_sub(self.line)));
        self.line = self.line.max(line);
    }

    fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn body(&mut self, body: &[ast::Stmt<'_>]) -> Done {
        body.iter().try_for_each(|stmt| self.statement(stmt))
    }

    /// A body that is a scope of its own. As in jinja2, a condition around it does not excuse unknown filters in it.
    fn scope(&mut self, body: &[ast::Stmt<'_>]) -> Done {
        let unknown = self.unknown.len();
        self.body(body)?;
        let first = self.unknown.drain(unknown.min(self.unknown.len())..).next();
        self.certain = self.certain.take().or(first);
        Ok(())
    }

    fn statement(&mut self, stmt: &ast::Stmt<'_>) -> Done {
        match stmt {
            ast::Stmt::EmitRaw(raw) => {
                self.open("{{", raw.span());
                self.string(raw.raw);
                self.push("}}");
            }
            ast::Stmt::EmitExpr(emit) => {
                self.open("{{", emit.span());
                self.expr(&emit.expr, Level::Condition)?;
                self.push("}}");
            }
            ast::Stmt::ForLoop(node) => self.for_loop(node)?,
            ast::Stmt::IfCond(node) => self.if_cond(node)?,
            ast::Stmt::Set(node) => self.set(node)?,
            ast::Stmt::SetBlock(node) => {
                self.open("{%", node.span());
                self.push("set ");
                let is_namespace = matches!(node.target, ast::Expr::GetAttr(_));
                if is_namespace {
                    self.push("_captured")
                } else {
                    self.target(&node.target)?
                }
                if let Some(filter) = &node.filter {
                    self.push("|");
                    self.filter_chain(filter)?;
                }
                self.push("%}");
                self.scope(&node.body)?;
                self.push("{%endset%}");
                if let ast::Expr::GetAttr(target) = &node.target {
                    self.push("{%");
                    self.store(target, |writer| {
                        writer.push("_captured");
                        Ok(())
                    })?;
                }
            }
            ast::Stmt::WithBlock(node) => {
                self.open("{%", node.span());
                self.push("with");
                if !node.assignments.is_empty() {
                    // All at once: the values do not see the new names.
                    self.push("(");
                    for (target, _) in &node.assignments {
                        self.target(target)?;
                        self.push(",");
                    }
                    self.push(")=");
                    self.items("none|_tuple", node.assignments.iter().map(|(_, value)| value))?;
                }
                self.push("%}");
                self.scope(&node.body)?;
                self.push("{%endwith%}");
            }
            ast::Stmt::FilterBlock(node) => {
                self.open("{%", node.span());
                self.push("filter ");
                self.filter_chain(&node.filter)?;
                self.push("%}");
                self.scope(&node.body)?;
                self.push("{%endfilter%}");
            }
            ast::Stmt::Macro(node) => {
                self.open("{%", node.span());
                self.push("macro ");
                self.push(node.name);
                self.macro_body(node)?;
                self.push("{%endmacro%}");
            }
            ast::Stmt::CallBlock(node) => {
                let ast::Expr::Var(callee) = &node.call.expr else {
                    return self.refuse(node.span(), "`call` wants a macro's name");
                };
                self.open("{%", node.span());
                self.push("call");
                self.signature(&node.macro_decl)?;
                self.push(callee.id);
                self.args("", &node.call.args)?;
                self.push("%}");
                self.defaults(&node.macro_decl)?;
                self.scope(&node.macro_decl.body)?;
                self.push("{%endcall%}");
            }
            ast::Stmt::Block(node) => {
                self.open("{%", node.span());
                self.push("with%}");
                self.scope(&node.body)?;
                self.push("{%endwith%}");
            }
            ast::Stmt::Import(node) => return self.refuse(node.span(), NO_OTHERS),
            ast::Stmt::FromImport(node) => return self.refuse(node.span(), NO_OTHERS),
            ast::Stmt::Extends(node) => return self.refuse(node.span(), NO_OTHERS),
            ast::Stmt::Include(node) => return self.refuse(node.span(), NO_OTHERS),
            ast::Stmt::Break(_) => self.push("{%break%}"),
            ast::Stmt::Continue(_) => self.push("{%continue%}"),
            ast::Stmt::Do(node) => return self.refuse(node.span(), "unknown tag `do`"),
            ast::Stmt::AutoEscape(node) => return self.refuse(node.span(), "`autoescape` is not supported"),
            ast::Stmt::Template(node) => self.body(&node.children)?,
        }
        Ok(())
    }

    fn refuse(&self, span: Span, what: &str) -> Done {
        Err(Bad { line: usize::from(span.start_line), what: what.into() })
    }

    fn for_loop(&mut self, node: &ast::Spanned<ast::ForLoop<'_>>) -> Done {
        self.open("{%", node.span());
        self.push("for ");
        self.target(&node.target)?;
        self.push(" in ");
        self.expr(&node.iter, Level::Filtered)?;
        self.push("|_iter ");
        let unknown = self.unknown.len();
        if let Some(test) = &node.filter_expr {
            self.push("if ");
            self.expr(test, Level::Condition)?;
        }
        let first = self.unknown.drain(unknown.min(self.unknown.len())..).next();
        self.certain = self.certain.take().or(first);
        self.push(if node.recursive { " recursive%}" } else { "%}" });
        self.scope(&node.body)?;
        if !node.else_body.is_empty() {
            self.push("{%else%}");
            self.scope(&node.else_body)?;
        }
        self.push("{%endfor%}");
        Ok(())
    }

    fn if_cond(&mut self, node: &ast::Spanned<ast::IfCond<'_>>) -> Done {
        let unknown = self.unknown.len();
        let mut node = node;
        let mut word = "if ";
        loop {
            self.open("{%", node.span());
            self.push(word);
            self.expr(&node.expr, Level::Condition)?;
            self.push("%}");
            self.body(&node.true_body)?;
            match node.false_body.as_slice() {
                [ast::Stmt::IfCond(next)] => (node, word) = (next, "elif "),
                [] => break,
                otherwise => {
                    self.push("{%else%}");
                    self.body(otherwise)?;
                    break;
                }
            }
        }
        self.push("{%endif%}");
        // Under a condition, a filter that does not exist fails only where it is used.
        self.unknown.truncate(unknown);
        Ok(())
    }

    fn set(&mut self, node: &ast::Spanned<ast::Set<'_>>) -> Done {
        self.open("{%", node.span());
        if let ast::Expr::GetAttr(target) = &node.target {
            return self.store(target, |writer| writer.expr(&node.expr, Level::Condition));
        }
        self.push("set ");
        self.target(&node.target)?;
        self.push("=");
        self.expr(&node.expr, Level::Condition)?;
        self.push("%}");
        Ok(())
    }

    /// The rest of a tag that writes to a namespace.
    fn store(&mut self, target: &ast::GetAttr<'_>, value: impl FnOnce(&mut Self) -> Done) -> Done {
        self.push("do _store(");
        self.expr(&target.expr, Level::Condition)?;
        self.push(",");
        self.string(target.name);
        self.push(",");
        value(self)?;
        self.push(")%}");
        Ok(())
    }

    fn target(&mut self, target: &ast::Expr<'_>) -> Done {
        match target {
            ast::Expr::Var(var) => self.push(var.id),
            ast::Expr::Tuple(tuple) => self.targets(&tuple.items)?,
            ast::Expr::List(list) => self.targets(&list.items)?,
            _ => return self.refuse(target.span(), "cannot assign to this"),
        }
        Ok(())
    }

    fn targets(&mut self, targets: &[ast::Expr<'_>]) -> Done {
        self.push("(");
        for target in targets {
            self.target(target)?;
            self.push(",");
        }
        self.push(")");
        Ok(())
    }

    fn macro_body(&mut self, node: &ast::Macro<'_>) -> Done {
        self.signature(node)?;
        self.push("%}");
        self.defaults(node)?;
        self.scope(&node.body)
    }

    fn signature(&mut self, node: &ast::Macro<'_>) -> Done {
        self.push("(");
        for arg in &node.args {
            self.target(arg)?;
            self.push(",");
        }
        self.push(")");
        Ok(())
    }

    /// Gives parameters their defaults: where nothing was passed (passing something undefined is passing something),
    /// from left to right, so that a default may use the parameters before it.
    fn defaults(&mut self, node: &ast::Macro<'_>) -> Done {
        let required = node.args.len().saturating_sub(node.defaults.len());
        for (arg, default) in node.args.iter().skip(required).zip(&node.defaults) {
            self.push("{%if ");
            self.target(arg)?;
            self.push("|_absent%}{%set ");
            self.target(arg)?;
            self.push("=");
            self.expr(default, Level::Condition)?;
            self.push("%}{%endif%}");
        }
        Ok(())
    }

    /// An expression, in parentheses if it binds less tightly than `level`.
    fn expr(&mut self, expr: &ast::Expr<'_>, level: Level) -> Done {
        let own = match expr {
            ast::Expr::IfExpr(_) => Level::Condition,
            ast::Expr::BinOp(op) => match op.op {
                ast::BinOpKind::ScOr => Level::Or,
                ast::BinOpKind::ScAnd => Level::And,
                _ => Level::Filtered,
            },
            ast::Expr::UnaryOp(op) if matches!(op.op, ast::UnaryOpKind::Not) => Level::Not,
            _ => Level::Filtered,
        };
        self.push(if own < level { "(" } else { "" });
        self.bare(expr)?;
        self.push(if own < level { ")" } else { "" });
        Ok(())
    }

    fn bare(&mut self, expr: &ast::Expr<'_>) -> Done {
        match expr {
            ast::Expr::Var(var) => self.push(var.id),
            ast::Expr::Const(value) => self.constant(&value.value)?,
            ast::Expr::IfExpr(node) => {
                let unknown = self.unknown.len();
                self.expr(&node.true_expr, Level::Or)?;
                self.push(" if ");
                self.expr(&node.test_expr, Level::Or)?;
                if let Some(otherwise) = &node.false_expr {
                    self.push(" else ");
                    self.expr(otherwise, Level::Condition)?;
                }
                self.unknown.truncate(unknown);
            }
            ast::Expr::UnaryOp(node) => match node.op {
                ast::UnaryOpKind::Not => {
                    self.push("not ");
                    self.expr(&node.expr, Level::Not)?;
                }
                ast::UnaryOpKind::Neg => self.apply(&node.expr, "_neg", &[])?,
            },
            ast::Expr::BinOp(node) => self.binary(node)?,
            ast::Expr::Compare(node) => {
                self.expr(&node.expr, Level::Filtered)?;
                self.push("|_chain(");
                for op in &node.ops {
                    self.string(comparison(op.op));
                    self.push(",");
                    self.expr(&op.expr, Level::Condition)?;
                    self.push(",");
                }
                self.push(")");
            }
            ast::Expr::GetAttr(node) => {
                self.expr(&node.expr, Level::Filtered)?;
                self.push("|_attr(");
                self.string(node.name);
                self.push(")");
            }
            ast::Expr::GetItem(node) => self.apply(&node.expr, "_item", &[&node.subscript_expr])?,
            ast::Expr::Slice(node) => {
                self.expr(&node.expr, Level::Filtered)?;
                self.push("|_slice(");
                for bound in [&node.start, &node.stop, &node.step] {
                    match bound {
                        Some(bound) => self.expr(bound, Level::Condition)?,
                        None => self.push("none"),
                    }
                    self.push(",");
                }
                self.push(")");
            }
            ast::Expr::List(node) => self.items("none|_list", node.items.iter())?,
            ast::Expr::Tuple(node) => self.items("none|_tuple", node.items.iter())?,
            ast::Expr::Map(node) => {
                self.items("none|_dict", node.keys.iter().zip(&node.values).flat_map(|(k, v)| [k, v]))?;
            }
            ast::Expr::Filter(node) => {
                match &node.expr {
                    Some(of) => self.expr(of, Level::Filtered)?,
                    None => return self.refuse(node.span(), "a filter has nothing to apply to"),
                }
                self.push("|");
                self.filter(node)?;
            }
            ast::Expr::Test(node) => self.test(node)?,
            ast::Expr::Call(node) => self.call(node)?,
        }
        Ok(())
    }

    fn binary(&mut self, node: &ast::BinOp<'_>) -> Done {
        use ast::BinOpKind as Op;
        let name = match node.op {
            Op::ScOr | Op::ScAnd => {
                let is_or = matches!(node.op, Op::ScOr);
                self.expr(&node.left, if is_or { Level::Or } else { Level::And })?;
                self.push(if is_or { " or " } else { " and " });
                return self.expr(&node.right, if is_or { Level::And } else { Level::Not });
            }
            Op::Eq => "_eq",
            Op::Ne => "_ne",
            Op::Lt => "_lt",
            Op::Lte => "_le",
            Op::Gt => "_gt",
            Op::Gte => "_ge",
            Op::In => "_in",
            Op::Add => "_add",
            Op::Sub => "_sub",
            Op::Mul => "_mul",
            Op::Div => "_div",
            Op::FloorDiv => "_floordiv",
            Op::Rem => "_mod",
            Op::Pow => "_pow",
            Op::Concat => "_cat",
        };
        self.apply(&node.left, name, &[&node.right])
    }

    /// `of|name(args)`
    fn apply(&mut self, of: &ast::Expr<'_>, name: &str, args: &[&ast::Expr<'_>]) -> Done {
        self.expr(of, Level::Filtered)?;
        self.push("|");
        self.items(name, args.iter().copied())
    }

    /// `name(items)`
    fn items<'a, 's: 'a>(&mut self, name: &str, items: impl Iterator<Item = &'a ast::Expr<'s>>) -> Done {
        self.push(name);
        self.push("(");
        for item in items {
            self.expr(item, Level::Condition)?;
            self.push(",");
        }
        self.push(")");
        Ok(())
    }

    /// A filter and its arguments; one that does not exist becomes an error for when it is reached.
    fn filter(&mut self, node: &ast::Spanned<ast::Filter<'_>>) -> Done {
        if filters::find(node.name).is_some() {
            self.push(node.name);
            return self.args("", &node.args);
        }
        let what = format!("no filter named `{}`", node.name);
        self.unknown.push(Bad { line: usize::from(node.span().start_line), what });
        self.push("_missing(");
        self.string(node.name);
        self.push(")");
        Ok(())
    }

    /// The filters of a `filter` or `set` block, which apply to its text.
    fn filter_chain(&mut self, expr: &ast::Expr<'_>) -> Done {
        let ast::Expr::Filter(node) = expr else { return self.refuse(expr.span(), "expected a filter") };
        if let Some(before) = &node.expr {
            self.filter_chain(before)?;
            self.push("|");
        }
        self.filter(node)
    }

    fn test(&mut self, node: &ast::Spanned<ast::Test<'_>>) -> Done {
        if tests::find(node.name).is_none() {
            let what = format!("no test named `{}`", node.name);
            self.unknown.push(Bad { line: usize::from(node.span().start_line), what });
        }
        self.expr(&node.expr, Level::Filtered)?;
        self.push("|_test");
        self.args(node.name, &node.args)
    }

    fn call(&mut self, node: &ast::Call<'_>) -> Done {
        match &node.expr {
            ast::Expr::Var(var) => {
                self.push(var.id);
                self.args("", &node.args)
            }
            ast::Expr::GetAttr(method) => {
                self.expr(&method.expr, Level::Filtered)?;
                self.push("|_call");
                self.args(method.name, &node.args)
            }
            callee => {
                self.expr(callee, Level::Filtered)?;
                self.push("|_apply");
                self.args("", &node.args)
            }
        }
    }

    /// The arguments of a call, with a string before them unless it is empty.
    fn args(&mut self, first: &str, args: &[ast::CallArg<'_>]) -> Done {
        self.push("(");
        if !first.is_empty() {
            self.string(first);
            self.push(",");
        }
        for arg in args {
            let (mark, expr) = match arg {
                ast::CallArg::Pos(expr) => ("", expr),
                ast::CallArg::Kwarg(name, expr) => {
                    self.push(name);
                    ("=", expr)
                }
                ast::CallArg::PosSplat(expr) => ("*", expr),
                ast::CallArg::KwargSplat(expr) => ("**", expr),
            };
            self.push(mark);
            let may_be_absent = matches!(expr, ast::Expr::Var(_) | ast::Expr::IfExpr(_) | ast::Expr::BinOp(_));
            self.expr(expr, if may_be_absent { Level::Filtered } else { Level::Condition })?;
            self.push(if may_be_absent { "|_arg," } else { "," });
        }
        self.push(")");
        Ok(())
    }

    fn constant(&mut self, value: &Engine) -> Done {
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or("")),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.push(&value.to_string()),
            ValueKind::Number => {
                let float = f64::try_from(value.clone()).unwrap_or(0.0);
                let _ = write!(self.out, "{float:?}");
            }
            ValueKind::None => self.push("none"),
            kind => return Err(Bad { line: self.line, what: format!("a constant {kind} was not expected") }),
        }
        Ok(())
    }

    /// A string literal.
    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                _ => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// The name under which a comparison of a chain goes.
fn comparison(op: ast::CompareOpKind) -> &'static str {
    use ast::CompareOpKind as Op;
    match op {
        Op::Eq => "_eq",
        Op::Ne => "_ne",
        Op::Lt => "_lt",
        Op::Lte => "_le",
        Op::Gt => "_gt",
        Op::Gte => "_ge",
        Op::In => "_in",
        Op::NotIn => "_not_in",
    }
}
