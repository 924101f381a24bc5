//! Many requests, one model: scheduler, cache pages, sampling, the step loop.
