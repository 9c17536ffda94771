/*
 * kr_vault_utf8.c
 *	  What is sealed is UTF-8, whatever the database's encoding: a dump opens in a
 *	  database of another one.
 *
 * Without an encoding of its own, SQL_ASCII, a database seals and takes whatever has
 * no zero byte. Not pg_any_to_server(), whose error shows the character that the
 * database does not have.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"

#include "kr_vault_int.h"

bool
kr_vault_is_converting(void)
{
	return GetDatabaseEncoding() != PG_UTF8 && GetDatabaseEncoding() != PG_SQL_ASCII;
}

bool
kr_vault_is_valid(const char *value, size_t len)
{
	return pg_encoding_verifymbstr(GetDatabaseEncoding(), value, len) == len;
}

char *
kr_vault_to_utf8(const char *value, size_t *len)
{
	char	   *result;

	if (!kr_vault_is_converting())
		return unconstify(char *, value);
	result = pg_server_to_any(value, *len, PG_UTF8);
	if (result != value)
		*len = strlen(result);
	return result;
}

bool
kr_vault_convert_utf8(const char *utf8, size_t len, char *out)
{
	int			encoding = GetDatabaseEncoding();
	Oid			proc = FindDefaultConversionProc(PG_UTF8, encoding);

	return OidIsValid(proc) &&
		pg_do_encoding_conversion_buf(proc, PG_UTF8, encoding,
									  (unsigned char *) utf8, len, (unsigned char *) out,
									  len * MAX_CONVERSION_GROWTH + 1, true) == len;
}

KrSecret *
kr_vault_from_utf8(KrSecret *secret)
{
	KrSecret   *result = NULL;

	if (!kr_vault_is_converting() && kr_vault_is_valid(secret->value, secret->len))
		return secret;
	if (kr_vault_is_converting() &&
		pg_encoding_verifymbstr(PG_UTF8, secret->value, secret->len) == secret->len)
	{
		result = kr_vault_new_secret(secret->len * MAX_CONVERSION_GROWTH);
		if (kr_vault_convert_utf8(secret->value, secret->len, result->value))
			result->len = strlen(result->value);
		else
		{
			kr_vault_close(result);
			result = NULL;
		}
	}
	kr_vault_close(secret);
	return result;
}
