//! What computation is: ops as data, shapes, plans.
