-- Fails unless the statement before it failed with the SQLSTATE :expected.
\set ECHO none
SELECT :'SQLSTATE' = :'expected' AS as_expected \gset
\if :as_expected
    \echo SQLSTATE :expected
\else
    DO $$ BEGIN RAISE 'the statement above should have been refused, or for another reason'; END $$;
\endif
\set ECHO queries
