/*
 * kr_fdw_locking.c
 *	  SKIP LOCKED and NOWAIT.
 *
 * postgres_fdw deparses FOR UPDATE and FOR SHARE without them: the query would
 * wait for the locks that it means to avoid. They are put behind the locking
 * clauses of a finished plan, which stand at the end of its SQL:
 * " FOR UPDATE", or " FOR UPDATE OF r1 FOR SHARE OF r2" for a join.
 */
#include "postgres.h"

#include "nodes/pathnodes.h"
#include "optimizer/prep.h"

#include "kr_fdw.h"

/* A locking clause at the end of a text of this length; its table is 0 where none is named. */
static bool
find_last_clause(const char *sql, int len, int *start, int *rti)
{
	static const char *const clauses[] = {" FOR UPDATE", " FOR SHARE"};
	int			end = len;
	int			digits = 0;

	while (end > 0 && sql[end - 1] >= '0' && sql[end - 1] <= '9')
		end--;
	digits = len - end;
	*rti = 0;
	if (digits > 0 && end >= 5 && strncmp(sql + end - 5, " OF r", 5) == 0)
	{
		*rti = atoi(sql + end);
		end -= 5;
	}
	else if (digits > 0)
		return false;

	for (int i = 0; i < lengthof(clauses); i++)
	{
		*start = end - (int) strlen(clauses[i]);
		if (*start >= 0 && strncmp(sql + *start, clauses[i], end - *start) == 0)
			return true;
	}
	return false;
}

static const PlanRowMark *
mark_of(PlannerInfo *root, int rti)
{
	const PlanRowMark *mark = get_plan_rowmark(root->rowMarks, rti);

	return mark != NULL && mark->strength != LCS_NONE ? mark : NULL;
}

static const char *
policy_text(LockWaitPolicy policy)
{
	switch (policy)
	{
		case LockWaitSkip:
			return " SKIP LOCKED";
		case LockWaitError:
			return " NOWAIT";
		default:
			return "";
	}
}

static bool
waits_for_all(PlannerInfo *root, Relids relids)
{
	int			rti = -1;

	while ((rti = bms_next_member(relids, rti)) >= 0)
	{
		const PlanRowMark *mark = mark_of(root, rti);

		if (mark != NULL && mark->waitPolicy != LockWaitBlock)
			return false;
	}
	return true;
}

ForeignScan *
kr_plan_locking(PlannerInfo *root, RelOptInfo *rel, ForeignScan *scan)
{
	Relids		relids = IS_UPPER_REL(rel) ? root->all_baserels : rel->relids;
	String	   *sql = linitial_node(String, scan->fdw_private);
	char	   *text = strVal(sql);
	int			len = strlen(text);
	const char *tail = "";
	int			start;
	int			rti;

	if (root->rowMarks == NIL || waits_for_all(root, relids))
		return scan;

	while (find_last_clause(text, len, &start, &rti))
	{
		const PlanRowMark *mark = mark_of(root, rti > 0 ? rti : bms_singleton_member(relids));

		tail = psprintf("%.*s%s%s", len - start, text + start,
						mark ? policy_text(mark->waitPolicy) : "", tail);
		len = start;
	}
	linitial(scan->fdw_private) = makeString(psprintf("%.*s%s", len, text, tail));
	return scan;
}
