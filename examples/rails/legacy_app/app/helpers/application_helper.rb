module ApplicationHelper
  # A column as it stands in the table.
  def cell(record, column)
    return tag.span("missing", class: "missing") if record.nil?

    value = record.read_attribute_before_type_cast(column)
    value.nil? ? tag.span("NULL", class: "null") : value.to_s
  end
end
