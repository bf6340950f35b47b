//! What the edge answers: the REST documents and the cursor.
