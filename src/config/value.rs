//! Part of the configuration's parser.
