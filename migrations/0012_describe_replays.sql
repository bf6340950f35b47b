-- The end of a replay: storage learns of it from the last event of its showing.

COMMENT ON COLUMN sessions.ended_at IS 'When the connection ended, or when the last event of a replay was shown; null while it lasts.';
COMMENT ON COLUMN sessions.end_reason IS 'The reason of the DISCONNECTED or ERROR event that ended it (such as stream_end, closed, silent), or lost: the creator has a newer session and this one never said goodbye. For a replay done, cancelled or failed. Null while ended_at is.';
