//! What is told of three requests.
