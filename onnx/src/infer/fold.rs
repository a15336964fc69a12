//! The arithmetic that shapes are made by: small constants through the operators that exporters use for it.

use super::{cuts, order, place};
use crate::file::{Attribute, Node};
use crate::value::{Element, Info, VALUES_MAX, Values};

/// The values of a node's one output, whose shape is known; `None` if an input's are not, or there are too many.
pub(super) fn fold(node: &Node, inputs: &[Option<&Info>], output: &Info) -> Option<Values> {
    let count = output.numel();
    if count > VALUES_MAX {
        return None;
    }
    let of = |index: usize| inputs.get(index).copied().flatten();
    let values = |index: usize| of(index)?.values.as_deref();
    let same = || {
        values(0)
            .filter(|values| values.len() as u64 == count)
            .cloned()
    };
    match node.operator.as_str() {
        "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => same(),
        "Cast" | "CastLike" => {
            let values = same()?;
            Some(match output.element {
                element if element.is_float() => Values::Floats(values.floats()),
                Element::BOOL => Values::Ints(
                    values
                        .floats()
                        .iter()
                        .map(|&v| i64::from(v != 0.0))
                        .collect(),
                ),
                _ => Values::Ints(values.ints()),
            })
        }
        "Neg" | "Abs" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Reciprocal" | "Not" => {
            unary(&node.operator, values(0)?)
        }
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Equal" | "Greater" | "Less"
        | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" => {
            let (a, b) = (spread(of(0)?, output)?, spread(of(1)?, output)?);
            binary(&node.operator, &a, &b)
        }
        "Max" | "Min" => {
            let mut all = spread(of(0)?, output)?;
            for index in 1..inputs.len() {
                all = binary(&node.operator, &all, &spread(of(index)?, output)?)?;
            }
            Some(all)
        }
        "Where" => {
            let condition = spread(of(0)?, output)?.ints();
            let (a, b) = (spread(of(1)?, output)?, spread(of(2)?, output)?);
            let choose = |index: usize| {
                if condition[index] != 0 {
                    (0, index)
                } else {
                    (1, index)
                }
            };
            Some(match (&a, &b) {
                (Values::Ints(a), Values::Ints(b)) => Values::Ints(
                    (0..a.len())
                        .map(choose)
                        .map(|(side, i)| [a, b][side][i])
                        .collect(),
                ),
                _ => {
                    let (a, b) = (a.floats(), b.floats());
                    Values::Floats(
                        (0..a.len())
                            .map(choose)
                            .map(|(side, i)| [&a, &b][side][i])
                            .collect(),
                    )
                }
            })
        }
        "Concat" => {
            // Along the first axis, the only one that shapes have, the values follow each other.
            if output.shape.len() != 1 {
                return None;
            }
            let parts: Option<Vec<&Values>> = (0..inputs.len()).map(values).collect();
            let parts = parts?;
            Some(
                match parts.iter().all(|part| matches!(part, Values::Ints(_))) {
                    true => Values::Ints(parts.iter().flat_map(|part| part.ints()).collect()),
                    false => Values::Floats(parts.iter().flat_map(|part| part.floats()).collect()),
                },
            )
        }
        "Slice" => {
            let shape = &of(0)?.shape;
            let mut picked: Vec<(u64, i64)> = vec![(0, 1); shape.len()];
            for cut in cuts(node, inputs)? {
                picked[cut.axis] = (cut.start, cut.step);
            }
            let strides = strides(shape);
            let at = |place: usize| {
                let mut rest = place as u64;
                let mut from = 0i64;
                for axis in (0..shape.len()).rev() {
                    let along = (rest % output.shape[axis]) as i64;
                    rest /= output.shape[axis];
                    from += (picked[axis].0 as i64 + along * picked[axis].1) * strides[axis] as i64;
                }
                from as usize
            };
            values(0)?.pick((0..count as usize).map(at))
        }
        "Gather" => {
            let data = of(0)?;
            let axis = place(node.int("axis").unwrap_or(0), data.shape.len())?;
            let size = data.shape[axis] as i64;
            let picked = values(1)?.ints();
            let inner: usize = data.shape[axis + 1..].iter().product::<u64>() as usize;
            let picked_len = picked.len().max(1);
            let at = |place: usize| {
                let (outer, rest) = (place / (picked_len * inner), place % (picked_len * inner));
                let index = picked[rest / inner];
                let index = if index < 0 { index + size } else { index };
                (outer * size as usize + index as usize) * inner + rest % inner
            };
            values(0)?.pick((0..count as usize).map(at))
        }
        "Transpose" => {
            let shape = &of(0)?.shape;
            let order = order(node, shape.len()).ok()?;
            let strides = strides(shape);
            let at = |place: usize| {
                let mut rest = place as u64;
                let mut from = 0;
                for axis in (0..order.len()).rev() {
                    from += rest % output.shape[axis] * strides[order[axis]];
                    rest /= output.shape[axis];
                }
                from as usize
            };
            values(0)?.pick((0..count as usize).map(at))
        }
        "Expand" | "Tile" if of(0)?.numel() == 1 => {
            let value = values(0)?;
            value.pick(std::iter::repeat_n(0, count as usize))
        }
        "Expand" => spread(of(0)?, output),
        "ConstantOfShape" => {
            let value = match node.attribute("value") {
                Some(Attribute::Tensor(constant)) => constant.values.clone()?,
                _ => Values::Floats(vec![0.0]),
            };
            value.pick(std::iter::repeat_n(0, count as usize))
        }
        "Range" => {
            let (start, delta) = (of(0)?.scalar()?, of(2)?.scalar()?);
            let floats = (0..count).map(|index| start + index as f64 * delta);
            Some(match output.element.is_float() {
                true => Values::Floats(floats.collect()),
                false => Values::Ints(floats.map(|value| value as i64).collect()),
            })
        }
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" if count == 1 => {
            let values = values(0)?.ints();
            let mut all = values.iter().copied();
            let one = match node.operator.as_str() {
                "ReduceProd" => all.try_fold(1i64, i64::checked_mul)?,
                "ReduceSum" => all.try_fold(0i64, i64::checked_add)?,
                "ReduceMax" => all.max()?,
                _ => all.min()?,
            };
            Some(Values::Ints(vec![one]))
        }
        _ => None,
    }
}

fn strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// An input's values, repeated to the output's shape.
fn spread(of: &Info, output: &Info) -> Option<Values> {
    let values = of.values.as_deref()?;
    if of.shape == output.shape {
        return Some(values.clone());
    }
    let behind = output.shape.len().checked_sub(of.shape.len())?;
    let strides = strides(&of.shape);
    let at = |place: usize| {
        let mut rest = place as u64;
        let mut from = 0;
        for axis in (0..output.shape.len()).rev() {
            let along = rest % output.shape[axis];
            rest /= output.shape[axis];
            if axis >= behind && of.shape[axis - behind] > 1 {
                from += along * strides[axis - behind];
            }
        }
        from as usize
    };
    values.pick((0..output.numel() as usize).map(at))
}

fn unary(operator: &str, values: &Values) -> Option<Values> {
    Some(match (operator, values) {
        ("Neg", Values::Ints(v)) => Values::Ints(v.iter().map(|v| v.wrapping_neg()).collect()),
        ("Abs", Values::Ints(v)) => Values::Ints(v.iter().map(|v| v.wrapping_abs()).collect()),
        ("Not", Values::Ints(v)) => Values::Ints(v.iter().map(|&v| i64::from(v == 0)).collect()),
        (_, Values::Ints(_)) => return None,
        (_, Values::Floats(values)) => {
            let of: fn(f64) -> f64 = match operator {
                "Neg" => |v| -v,
                "Abs" => f64::abs,
                "Floor" => f64::floor,
                "Ceil" => f64::ceil,
                "Round" => f64::round_ties_even,
                "Sqrt" => f64::sqrt,
                "Reciprocal" => f64::recip,
                _ => return None,
            };
            Values::Floats(values.iter().map(|&v| of(v)).collect())
        }
    })
}

fn binary(operator: &str, a: &Values, b: &Values) -> Option<Values> {
    if let (Values::Ints(a), Values::Ints(b)) = (a, b) {
        let of = |(&a, &b): (&i64, &i64)| {
            Some(match operator {
                "Add" => a.checked_add(b)?,
                "Sub" => a.checked_sub(b)?,
                "Mul" => a.checked_mul(b)?,
                "Div" => a.checked_div(b)?,
                "Mod" => a.checked_rem_euclid(b)?,
                "Pow" => a.checked_pow(u32::try_from(b).ok()?)?,
                "Max" => a.max(b),
                "Min" => a.min(b),
                "Equal" => i64::from(a == b),
                "Greater" => i64::from(a > b),
                "Less" => i64::from(a < b),
                "GreaterOrEqual" => i64::from(a >= b),
                "LessOrEqual" => i64::from(a <= b),
                "And" => i64::from(a != 0 && b != 0),
                "Or" => i64::from(a != 0 || b != 0),
                _ => return None,
            })
        };
        return a
            .iter()
            .zip(b)
            .map(of)
            .collect::<Option<_>>()
            .map(Values::Ints);
    }
    let (a, b) = (a.floats(), b.floats());
    let pairs = a.iter().copied().zip(b.iter().copied());
    let of: fn(f64, f64) -> f64 = match operator {
        "Add" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Pow" => f64::powf,
        "Max" => f64::max,
        "Min" => f64::min,
        _ => {
            let holds: fn(f64, f64) -> bool = match operator {
                "Equal" => |a, b| a == b,
                "Greater" => |a, b| a > b,
                "Less" => |a, b| a < b,
                "GreaterOrEqual" => |a, b| a >= b,
                "LessOrEqual" => |a, b| a <= b,
                _ => return None,
            };
            return Some(Values::Ints(
                pairs.map(|(a, b)| i64::from(holds(a, b))).collect(),
            ));
        }
    };
    Some(Values::Floats(pairs.map(|(a, b)| of(a, b)).collect()))
}
