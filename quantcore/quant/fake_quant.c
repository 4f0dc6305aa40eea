typedef int mpq_placeholder;
