//! What data is: element types, block formats, storage.
